"""The loop's promises: the loss is the reference's, packing leaks nothing, accumulating equals one batch, a killed run
goes on to the bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import groundup as gu
from groundup.checkpoints.safetensors import open_safetensors
from groundup.core.errors import GroundupError, UsageError
from groundup.inputs.tokenizer import Encoded
from groundup.models import llama
from groundup.nn.cache import Fresh
from groundup.nn.step import Step
from groundup.nn.surgery import in_format
from groundup.peft.front import lay
from groundup.peft.ia3 import IA3
from groundup.peft.llama_adapter import LlamaAdapter
from groundup.peft.lora import LoRA
from groundup.peft.method import of_adapter as trained
from groundup.peft.prefix import PrefixTuning
from groundup.peft.prompt import Prompt
from groundup.training import state
from groundup.training.loop import Trainer
from groundup.training.objective import CHUNK, causal_loss, scored
from groundup.training.settings import Settings

CONFIG = llama.Config(
    vocab_size=97, hidden_size=36, intermediate_size=37, num_hidden_layers=2, num_attention_heads=6,
    num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5,
)  # fmt: skip


@pytest.fixture(scope="module")
def network():
    return gu.build(CONFIG, seed=3, std=0.2).network


def rows(count: int, *, shared: int = 0, seed: int = 0) -> list[Encoded]:
    draw = random.Random(seed)
    common = [draw.randrange(3, 97) for _ in range(shared)]
    made = []
    for _ in range(count):
        prompt, answer = draw.randint(2, 9), draw.randint(1, 6)
        ids = common + [draw.randrange(3, 97) for _ in range(prompt + answer)]
        made.append(Encoded(ids, [False] * (shared + prompt) + [True] * answer))
    return made


def plain_loss(network, given, adapter):
    total = torch.zeros((), dtype=torch.float64)
    for row in given:
        ids, step, (begin,) = lay(network, [row.ids], Fresh(), adapters=adapter)
        logits = network(ids, step)[begin:]
        mask = torch.tensor(row.trained)[1:]
        total = total + F.cross_entropy(logits[:-1][mask], torch.tensor(row.ids)[1:][mask], reduction="sum")
    return total


METHODS = {
    "lora": LoRA(rank=3, targets="all"), "prompt": Prompt(length=4), "long prompt": Prompt(length=9),
    "prefix": PrefixTuning(length=4), "prefix by mlp": PrefixTuning(length=9, hidden=5),
    "llama-adapter": LlamaAdapter(length=3, layers=2), "ia3": IA3(),
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("shared", [0, 3, 11])
def test_the_loss_and_its_gradients_are_those_of_rows_alone(network, shared, method):
    given = rows(5, shared=shared)
    tuned = method.add(network, "mine").double()  # float32's own noise would hide a small fault
    own = trained(tuned, "mine")
    draw = torch.Generator().manual_seed(5)
    for parameter in own.values():
        torch.nn.init.normal_(parameter, std=0.2, generator=draw).requires_grad_()
    loss, count = causal_loss(tuned, given, adapter="mine")
    assert count == sum(map(sum, (r.trained for r in given)))
    ours = torch.autograd.grad(loss, list(own.values()))
    want = plain_loss(tuned, given, "mine")
    theirs = torch.autograd.grad(want, list(own.values()))
    assert abs((loss - want).item()) < 1e-10 * want.item()
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() <= 1e-9 * max(1.0, float(b.abs().max()))
    assert abs((plain_loss(tuned, given, None) - want).item()) > 1e-3  # without the adapter it is another loss


def test_a_row_sees_nothing_of_its_neighbours(network):
    one, other, third = rows(3)
    changed = Encoded([t - 1 for t in other.ids], other.trained)

    def first_logits(given):
        ids = torch.tensor([t for r in given for t in r.ids])
        return network(ids, Step.of([len(r.ids) for r in given], Fresh()))[: len(one.ids)]

    with torch.no_grad():
        assert torch.equal(first_logits([one, other, third]), first_logits([one, changed, third]))


def test_scores_in_chunks_are_scores_at_once(network, monkeypatch):
    x = torch.randn(23, 36, requires_grad=True)
    wanted = torch.randint(97, (23,))
    step = Step.of([23], Fresh())
    whole = scored(network.head, x, wanted, step)
    (grad,) = torch.autograd.grad(whole, x)
    monkeypatch.setattr("groundup.training.objective.CHUNK", 5)
    parts = scored(network.head, x, wanted, step)
    (again,) = torch.autograd.grad(parts * 3, x)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(again, 3 * grad)
    assert CHUNK > 23


def trainer(network, tmp_path, settings: Settings, given=None) -> tuple[Trainer, dict]:
    tuned = LoRA(rank=3, targets="all").add(network, "mine")
    own = trained(tuned, "mine")
    for parameter in own.values():
        parameter.requires_grad_()
    settings = replace(settings, learning_rate=settings.learning_rate or 1e-3)
    made = Trainer(
        tuned, own, given or rows(40), rows(6, seed=9), settings, out=tmp_path, adapter="mine",
        keep=lambda path: path.mkdir(exist_ok=True),
    )  # fmt: skip
    return made, own


def test_accumulated_batches_are_one_big_batch(network, tmp_path):
    given = rows(12)
    one, a = trainer(network, tmp_path, Settings(steps=1))
    many, b = trainer(network, tmp_path, Settings(steps=1, accumulate=4))
    first = one.update([given], 1e-2)
    second = many.update([given[:1], given[1:5], given[5:11], given[11:]], 1e-2)
    assert abs(first - second) < 1e-5
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5)


def test_checkpointing_changes_no_gradient(network, tmp_path):
    given = rows(7)
    plain, a = trainer(network, tmp_path, Settings(steps=1))
    again, b = trainer(network, tmp_path, Settings(steps=1, checkpointing=True))
    plain.update([given], 1e-2), again.update([given], 1e-2)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_in_bfloat16_trained_weights_stay_float32_and_the_loss_is_near(network, tmp_path):
    given = rows(12)
    exact, _ = trainer(network, tmp_path, Settings(steps=1))
    rough, own = trainer(in_format(network, torch.bfloat16), tmp_path, Settings(steps=1, precision="bfloat16"))
    assert abs(exact.update([given], 1e-2) - rough.update([given], 1e-2)) < 0.05
    assert all(p.dtype == torch.float32 for p in own.values())
    assert all(v["exp_avg"].dtype == torch.float32 for v in rough.optimizer.state.values())
    assert next(rough.network.embed.parameters()).dtype == torch.bfloat16


def test_the_loss_falls_and_the_run_keeps_best_and_last(network, tmp_path):
    made, _ = trainer(network, tmp_path, Settings(steps=24, batch=8, learning_rate=2e-2, validate_every=6))
    done = made.go()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 24 and sum(losses[-4:]) < sum(losses[:4])
    assert done.best_loss <= done.last_loss and done.best.is_dir() and done.last.is_dir()
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_rates(network):
    settings = Settings(steps=100, learning_rate=1.0, warmup=0.1)
    rates = [settings.rate(i) for i in range(100)]
    assert rates[0] == 0.1 and max(rates) == rates[9] == 1.0 and rates[-1] < 1e-3
    assert rates[10:] == sorted(rates[10:], reverse=True)
    linear = Settings(steps=10, learning_rate=1.0, warmup=0.0, schedule="linear")
    assert linear.rate(5) == pytest.approx(0.5)
    assert Settings(steps=10, learning_rate=1.0, warmup=0.0, schedule="constant").rate(9) == 1.0


def test_the_first_transformers_rates():
    width, warm = 512, 40
    ours = Settings(steps=1000, learning_rate=(width * warm) ** -0.5, warmup=warm / 1000, schedule="inverse-sqrt")
    for step in (1, 2, 39, 40, 41, 400, 1000):  # arXiv 1706.03762, eq. 3
        assert ours.rate(step - 1) == pytest.approx(width**-0.5 * min(step**-0.5, step * warm**-1.5))
    assert Settings(steps=9, learning_rate=1.0, warmup=0.0, schedule="inverse-sqrt").rate(3) == 0.5


@pytest.mark.parametrize(
    ("bad", "says"),
    [({"steps": 0}, "steps is 0"), ({"learning_rate": float("nan")}, "learning_rate")],
)
def test_settings_that_make_no_sense_are_refused(bad, says):
    with pytest.raises(UsageError, match=says):
        Settings(**({"steps": 1} | bad))


def test_a_loss_that_is_no_number_stops_the_run(network, tmp_path):
    made, own = trainer(network, tmp_path, Settings(steps=3))
    with torch.no_grad():
        next(iter(own.values())).fill_(float("nan"))
    with pytest.raises(GroundupError, match="lower the learning rate"):
        made.go()


# --- killed and resumed -------------------------------------------------------------------------------------------

SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
import torch
torch.set_num_threads(1)
from test_training import CONFIG, Settings, gu, trainer
made, own = trainer(gu.build(CONFIG, seed=3, std=0.2).network, Path(sys.argv[1]),
                    Settings(steps=30, batch=4, save_every=0.0, validate_every=7, learning_rate=1e-2))
made.go()
print("done", flush=True)
"""


def run_once(out: Path, patience: float | None) -> bool:
    """Start the run in `out`; kill -9 it after so many seconds from its first state. True when it came to its end."""
    script = SCRIPT.format(here=str(Path(__file__).parent))
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", script, str(out)], stdout=subprocess.PIPE)
    if patience is not None:
        before = len(state.states(out)) and state.states(out)[-1]
        while process.poll() is None and (not state.states(out) or state.states(out)[-1] == before):
            time.sleep(0.002)
        time.sleep(patience)
        process.kill()
    said, _ = process.communicate(timeout=120)
    return b"done" in said


def test_a_run_killed_at_random_moments_ends_with_the_same_bits(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    assert run_once(whole, None)
    draw = random.Random(os.getpid())
    kills = 0
    while not run_once(broken, draw.uniform(0.0, 0.15) if kills < 4 else None):
        kills += 1
    assert kills >= 1
    ends = [open_safetensors(state.states(p)[-1] / "tensors.safetensors") for p in (whole, broken)]
    assert ends[0].names == ends[1].names
    for name in ends[0].names:
        assert torch.equal(ends[0].read(name), ends[1].read(name)), name
    steps = [json.loads(line)["step"] for line in (broken / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == 30


def test_a_damaged_state_is_passed_over_for_the_one_before(network, tmp_path):
    made, _ = trainer(network, tmp_path, Settings(steps=6, batch=4, save_every=0.0))
    made.go()
    newest = state.states(tmp_path)[-1] / "tensors.safetensors"
    data = bytearray(newest.read_bytes())
    data[-3] ^= 1
    newest.write_bytes(bytes(data))
    found, damaged = state.newest(tmp_path)
    assert found is not None and found.facts["step"] == 5 and "damaged" in damaged[0]


def test_ctrl_c_saves_and_the_run_goes_on_to_the_same_bits(network, tmp_path):
    settings = Settings(steps=8, batch=4, learning_rate=1e-2)
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    whole, wanted = trainer(network, tmp_path / "a", settings)
    whole.go()
    made, _ = trainer(network, tmp_path / "b", settings)
    made.tell = lambda step, *rest, **facts: os.kill(os.getpid(), signal.SIGINT) if step == 3 else None
    with pytest.raises(KeyboardInterrupt):
        made.go()
    again, own = trainer(network, tmp_path / "b", settings)
    done = again.go()
    assert done.steps == 8 and all(torch.equal(own[name], wanted[name]) for name in own)
