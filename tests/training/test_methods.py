"""Every method through the whole of `finetune`, and LOMO against PyTorch's own steps."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_training import CONFIG, rows

import groundup as gu
from groundup.core.errors import UsageError
from groundup.inputs.train import train_tokenizer
from groundup.model import Model
from groundup.peft.method import Method
from groundup.peft.methods import METHODS
from groundup.training.lomo import Lomo
from groundup.training.objective import causal_loss

SETTINGS = {"prompt": {"length": 4}, "prefix": {"length": 4}, "llama-adapter": {"length": 3, "layers": 2}}
TEXTS = [{"text": f"row {i} of {40 - i}, and the word is {'abcdefgh'[i % 8] * 3}"} for i in range(24)]


def model() -> Model:
    tokenizer = train_tokenizer([row["text"] for row in TEXTS], kind="character")
    assert tokenizer.vocab_size <= 97
    return replace(gu.build(CONFIG, seed=3, std=0.2), tokenizer=tokenizer)


def method(kind: str) -> Method:
    return METHODS[kind](**SETTINGS.get(kind, {}))


@pytest.mark.parametrize("kind", sorted(set(METHODS) - {"bitfit"}))
def test_a_run_trains_its_own_numbers_and_leaves_the_model_alone(kind, tmp_path):
    base = model()
    before = copy.deepcopy(base.network.state_dict())
    tuned = base_of_method = gu.adapt(base, method(kind))
    start = [p.clone() for p in tuned.methods["mine"].trained(tuned.network, "mine").values()]
    run = gu.finetune(tuned, TEXTS, out=tmp_path / "run", steps=8, batch=8, precision="float32")
    assert run.best_loss < run.first_loss
    held = base.network.state_dict()
    assert all(torch.equal(held[n], t) for n, t in before.items())
    after = list(base_of_method.methods["mine"].trained(tuned.network, "mine").values())
    assert all(torch.equal(a, b) for a, b in zip(start, after, strict=True))  # verbs never change their argument
    kept = json.loads((tmp_path / "run" / "run.json").read_text())
    assert kept["method"]["kind"] == kind
    assert kept["settings"]["learning_rate"] == METHODS[kind].learning_rate
    whole = METHODS[kind].whole
    assert (run.best / "model.safetensors").exists() == whole
    assert (run.best / "adapter_config.json").exists() == (not whole)


@pytest.mark.parametrize("kind", ["full", "freeze", "lora"])
def test_a_model_that_is_used_up_learns_the_same_in_its_own_memory(kind, tmp_path):
    """The other one is left alone; see above for that of every method."""
    runs = {}
    for consume in (False, True):
        tuned = gu.adapt(model(), method(kind))
        own = next(iter(tuned.method.trained(tuned.network, "mine").values()))
        before = own.clone()
        how = {"steps": 4, "batch": 8, "precision": "float32"}
        runs[consume] = gu.finetune(tuned, TEXTS, out=tmp_path / str(consume), consume=consume, **how)
        assert torch.equal(own, before) != consume
    name = "adapter_model.safetensors" if kind == "lora" else "model.safetensors"
    assert (runs[True].best / name).read_bytes() == (runs[False].best / name).read_bytes()
    untouched = gu.adapt(model(), method(kind))
    before = [p.clone() for p in untouched.network.parameters()]
    gu.finetune(untouched, TEXTS, out=tmp_path / "dry", consume=True, dry_run=True, steps=4)
    assert all(torch.equal(a, b) for a, b in zip(before, untouched.network.parameters(), strict=True))


@pytest.mark.parametrize("kind", ["lora", "prompt", "prefix", "full"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(kind, tmp_path):
    def start(out: Path, resume: bool = False, stop: int | None = None):
        def tell(step, *rest, **facts):
            if step == stop:
                raise KeyboardInterrupt

        return gu.finetune(
            gu.adapt(model(), method(kind)), TEXTS, out=out, steps=8, batch=8, save_every=0.0,
            precision="float32", resume=resume, on_progress=tell,
        )  # fmt: skip

    whole = start(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "broken", stop=5)
    again = start(tmp_path / "broken", resume=True)
    assert again.last_loss == whole.last_loss
    name = "model.safetensors" if kind == "full" else "adapter_model.safetensors"
    assert (whole.last / name).read_bytes() == (again.last / name).read_bytes()


def test_minutes_become_steps(tmp_path):
    said: list[str] = []
    run = gu.finetune(gu.adapt(model(), method("lora")), TEXTS, out=tmp_path / "run", minutes=0.02, batch=8,
                      precision="float32", say=said.append)  # fmt: skip
    assert run.steps >= 1 and any(f"--steps {run.steps} repeats" in line for line in said)
    kept = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert kept["steps"] == run.steps and kept["minutes"] is None


def test_another_method_is_no_way_to_go_on(tmp_path):
    def start(kind: str, resume: bool):
        return gu.finetune(gu.adapt(model(), method(kind)), TEXTS, out=tmp_path / "run", steps=2, batch=8,
                           precision="float32", resume=resume)  # fmt: skip

    start("lora", False)
    (tmp_path / "run" / "done.json").unlink()
    with pytest.raises(UsageError, match="another method"):
        start("ia3", True)


# --- LOMO ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_lomo_is_plain_steps_with_the_norm_clipped(clip):
    ours, theirs = (gu.build(CONFIG, seed=3, std=0.2).network.double().requires_grad_() for _ in range(2))
    lomo = Lomo(ours.parameters(), clip=clip)
    sgd = torch.optim.SGD(theirs.parameters(), lr=0.05)
    for seed in range(4):
        batch = rows(5, seed=seed)
        loss = lomo.step(lambda batch=batch: causal_loss(ours, batch)[0] / 100, 0.05)
        wanted = causal_loss(theirs, batch)[0] / 100
        wanted.backward()
        if clip:
            assert torch.nn.utils.clip_grad_norm_(theirs.parameters(), clip) > clip  # it does clip
        sgd.step()
        sgd.zero_grad()
        assert loss == pytest.approx(float(wanted.detach()), rel=1e-12)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_lomo_holds_one_gradient_at_a_time():
    network = gu.build(CONFIG, seed=3, std=0.2).network.requires_grad_()
    lomo, seen = Lomo(network.parameters()), []
    for parameter in network.parameters():
        parameter.register_post_accumulate_grad_hook(
            lambda _: seen.append(sum(p.grad.numel() for p in network.parameters() if p.grad is not None))
        )
    lomo.step(lambda: causal_loss(network, rows(5))[0] / 100, 0.1)
    assert len(seen) == len(list(network.parameters()))
    assert max(seen) == 0 and all(p.grad is None for p in network.parameters())


def test_lomo_takes_a_whole_run_and_refuses_what_it_cannot_do(tmp_path):
    tuned = gu.adapt(model(), METHODS["full"]())
    run = gu.finetune(tuned, TEXTS, out=tmp_path / "run", steps=8, batch=8, optimizer="lomo",
                      learning_rate=0.5, precision="float32")  # fmt: skip
    assert run.best_loss < run.first_loss
    with pytest.raises(UsageError, match="accumulate"):
        gu.finetune(tuned, TEXTS, out=tmp_path / "two", steps=8, optimizer="lomo", accumulate=2)
