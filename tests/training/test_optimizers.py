"""Optimizers by name: their steps are those of the libraries they come from, and a stopped run goes on to the bit with
each of them, the moving average of the weights too. When a run stops by itself, and what it averages."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from test_training import CONFIG, rows, trainer
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

import groundup as gu
from groundup.checkpoints.safetensors import open_safetensors
from groundup.core.errors import UsageError
from groundup.training import state
from groundup.training.average import Average, unchanged
from groundup.training.objective import causal_loss
from groundup.training.optimizers import READS, optimizer_for, usual_rate
from groundup.training.settings import Settings

pytestmark = pytest.mark.usefixtures("one_thread")
RATES = {"adamw": 1e-2, "adafactor": 1e-1, "sgd": 0.5, "lion": 2e-3, "lomo": 0.3}


@pytest.fixture(scope="module")
def network():
    return gu.build(CONFIG, seed=3, std=0.2).network


def needs(name: str) -> None:
    if name == "lion":
        pytest.importorskip("lion_pytorch", reason="the optimizer lion comes from lion-pytorch (extra dev)")


def filled(own, seed=4):
    """Both of LoRA's matrices away from 0, so that every gradient has something to say."""
    draw = torch.Generator().manual_seed(seed)
    for parameter in own.values():
        torch.nn.init.normal_(parameter, std=0.2, generator=draw)


def by_hand(name, settings, own, gradients):
    """The steps of torch's own class (for Lion: of algorithm 2 of arXiv 2302.06675) with these gradients."""
    rate, decay = settings.learning_rate, settings.weight_decay
    if name == "lion":
        moments = {n: torch.zeros_like(p) for n, p in own.items()}
        for found in gradients():
            with torch.no_grad():
                for n, p in own.items():
                    towards = torch.sign(0.8 * moments[n] + 0.2 * found[n])
                    p.sub_(rate * (towards + decay * p))
                    moments[n] = 0.95 * moments[n] + 0.05 * found[n]
        return
    weights = list(own.values())
    made = {
        "adamw": lambda: torch.optim.AdamW(weights, lr=rate, betas=(0.8, 0.95), weight_decay=decay),
        "adafactor": lambda: torch.optim.Adafactor(weights, lr=rate, weight_decay=decay),
        "sgd": lambda: torch.optim.SGD(weights, lr=rate, momentum=0.8, weight_decay=decay),
    }[name]()
    for found in gradients():
        for n, p in own.items():
            p.grad = found[n]
        made.step()


@pytest.mark.parametrize("name", ["adamw", "adafactor", "sgd", "lion"])
def test_steps_are_those_of_the_library(network, tmp_path, name):
    needs(name)
    memory = {"adafactor": {}, "sgd": {"beta1": 0.8}}.get(name, {"beta1": 0.8, "beta2": 0.95})
    settings = Settings(steps=4, optimizer=name, learning_rate=RATES[name], weight_decay=0.1, clip=0.0, **memory)
    given = rows(16)
    groups = [given[i : i + 4] for i in range(0, 16, 4)]
    made, own = trainer(network, tmp_path, settings)
    other, theirs = trainer(network, tmp_path, Settings(steps=1))
    filled(own), filled(theirs)
    begin = {n: p.detach().clone() for n, p in own.items()}

    def gradients():
        for group in groups:
            loss, count = causal_loss(other.network, group, adapter="mine")
            yield dict(zip(theirs, torch.autograd.grad(loss / count, list(theirs.values())), strict=True))

    by_hand(name, settings, theirs, gradients)
    for group in groups:
        made.update([group], RATES[name])
    for n in own:
        torch.testing.assert_close(own[n], theirs[n], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(own[n], begin[n], atol=1e-3), f"{n} has hardly moved"


@pytest.mark.parametrize("name", READS)
def test_a_stopped_run_goes_on_to_the_same_bits(network, tmp_path, name):
    needs(name)
    settings = Settings(steps=9, batch=4, optimizer=name, learning_rate=RATES[name], validate_every=2, average=3)
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    whole, wanted = trainer(network, tmp_path / "a", settings)
    begin = {n: p.detach().clone() for n, p in wanted.items()}
    first = whole.go()
    made, _ = trainer(network, tmp_path / "b", settings)
    made.tell = lambda step, *rest, **facts: os.kill(os.getpid(), signal.SIGINT) if step == 5 else None
    with pytest.raises(KeyboardInterrupt):
        made.go()
    assert state.states(tmp_path / "b")[-1].name == "state-00000005"
    again, own = trainer(network, tmp_path / "b", settings)
    second = again.go()
    assert all(torch.equal(own[n], wanted[n]) for n in own)
    assert any(not torch.equal(own[n], begin[n]) for n in own)
    ends = [open_safetensors(state.states(tmp_path / p)[-1] / "tensors.safetensors") for p in "ab"]
    assert ends[0].names == ends[1].names and any(n.startswith("average/") for n in ends[0].names)
    for n in ends[0].names:
        assert torch.equal(ends[0].read(n), ends[1].read(n)), n
    assert first.average_loss == second.average_loss and first.best_loss == second.best_loss
    losses = [json.loads((tmp_path / p / "log.jsonl").read_text().splitlines()[-1]) for p in "ab"]
    assert losses[0] == losses[1] and "average_loss" in losses[0]


@pytest.mark.parametrize("name", ["adamw", "adafactor", "sgd", "lion"])
def test_without_its_moments_a_resumed_run_would_be_another(network, tmp_path, name):
    """The negative control of the test above."""
    needs(name)
    settings = Settings(steps=9, batch=4, optimizer=name, learning_rate=RATES[name])
    ends = []
    for forget in (False, True):
        made, own = trainer(network, tmp_path, settings)
        filled(own)
        for at, i in enumerate(range(0, 24, 4)):
            if forget and at == 3:
                made.optimizer.state.clear()
            made.update([rows(24)[i : i + 4]], RATES[name])
        ends.append({n: p.detach().clone() for n, p in own.items()})
    assert any(not torch.equal(ends[0][n], ends[1][n]) for n in ends[0])


def test_what_an_optimizer_keeps(network, tmp_path):
    """Numbers kept beside each weight: two, one and (but for a row and a column a matrix) none."""
    held = {}
    for name in ("adamw", "sgd", "adafactor", "lomo"):
        made, own = trainer(network, tmp_path, Settings(steps=1, optimizer=name, learning_rate=RATES[name]))
        made.update([rows(4)], RATES[name])
        kept = [v for each in made.optimizer.state.values() for v in each.values() if v.ndim]
        held[name] = sum(v.numel() for v in kept)
    count = sum(p.numel() for p in own.values())
    edges = sum(sum(p.shape) for p in own.values())
    assert held == {"adamw": 2 * count, "sgd": count, "adafactor": edges, "lomo": 0}


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("adafactor", {"beta1": 0.9}, "adafactor .* takes no --beta1"),
        ("sgd", {"beta2": 0.9}, "sgd .* takes no --beta2"),
        ("lomo", {"weight_decay": 0.1}, "lomo .* takes no --weight-decay"),
        ("lomo", {"accumulate": 2}, "lomo .* takes no --accumulate"),
    ],
)
def test_a_setting_that_nothing_would_read_is_refused(name, given, says):
    settings = Settings(steps=1, optimizer=name, learning_rate=0.1, **given)
    with pytest.raises(UsageError, match=says):
        optimizer_for(settings, [torch.nn.Parameter(torch.ones(2))])


def test_usual_rates():
    assert usual_rate("adamw", 1e-3) == usual_rate("lomo", 1e-3) == 1e-3
    assert usual_rate("lion", 1e-3) == 2e-4 and usual_rate("adafactor", 1e-3) == 1e-2
    with pytest.raises(UsageError, match="--find-learning-rate"):
        usual_rate("sgd", 1e-3)


def test_lion_says_where_it_comes_from(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lion_pytorch", None)
    settings = Settings(steps=1, optimizer="lion", learning_rate=0.1)
    with pytest.raises(UsageError, match="pip install lion-pytorch"):
        optimizer_for(settings, [torch.nn.Parameter(torch.ones(2))])


def test_the_inverse_square_root_is_the_original_transformers(network):
    settings = Settings(steps=1000, learning_rate=1.0, warmup=0.1, schedule="inverse-sqrt")
    width, warm = 512, 100
    for step in (1, 7, 99, 100, 101, 500, 1000):  # Vaswani et al., equation 3, whose first step is 1
        paper = width**-0.5 * min(step**-0.5, step * warm**-1.5)
        assert settings.rate(step - 1) == pytest.approx(paper * (width * warm) ** 0.5)
    assert Settings(steps=9, learning_rate=1.0, warmup=0.0, schedule="inverse-sqrt").rate(3) == pytest.approx(0.5)


# --- averages and stopping ----------------------------------------------------------------------------------------


def test_the_average_is_torchs():
    """A plain mean over the first `span` updates, torch's exponential one from then on."""
    weight, span = torch.nn.Parameter(torch.zeros(5)), 4
    ours = Average({"w": weight}, span)
    theirs = torch.zeros(5)
    mean, moving = get_swa_multi_avg_fn(), get_ema_multi_avg_fn(1 - 1 / span)
    for update in range(1, 12):
        torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(update))
        if update == 1:
            theirs = weight.detach().clone()
        elif update <= span:
            mean([theirs], [weight.detach()], update - 1)
        else:
            moving([theirs], [weight.detach()], update)
        ours.add(update)
        torch.testing.assert_close(ours.held["w"], theirs)
    before = weight.detach().clone()
    with ours.in_use():
        assert torch.equal(weight, ours.held["w"])
    assert torch.equal(weight, before) and not torch.equal(weight, ours.held["w"])


def test_weights_come_back_even_after_an_error():
    weight = torch.nn.Parameter(torch.randn(3))
    before = weight.detach().clone()
    with pytest.raises(ZeroDivisionError), unchanged({"w": weight}):
        weight.data.zero_()
        1 / 0  # noqa: B018
    assert torch.equal(weight, before)


def test_the_best_average_is_kept_beside_the_best_and_validated(network, tmp_path):
    settings = Settings(steps=12, batch=4, learning_rate=0.1, validate_every=3, average=4)
    made, own = trainer(network, tmp_path, settings)
    kept = {}
    made.keep = lambda path: kept.__setitem__(path.name, {n: p.detach().clone() for n, p in own.items()})
    done = made.go()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    means = {line["step"]: line["average_loss"] for line in lines if "average_loss" in line}
    assert list(means) == [3, 6, 9, 12]
    assert done.average == tmp_path / "average" and done.average_loss == min(means.values())
    assert means[done.average_step] == done.average_loss
    with unchanged(own):
        for n in own:
            own[n].data.copy_(kept["average"][n])
        assert made.validate() == done.average_loss
    assert all(torch.equal(kept["last"][n], own[n]) for n in own)  # the average never reached the weights themselves


def test_a_run_stops_when_nothing_gets_better(network, tmp_path):
    settings = Settings(steps=40, batch=4, learning_rate=1e-3, validate_every=2, patience=3, save_every=1e6)
    losses = iter([5.0, 4.0, 4.5, 4.2, 3.9, 4.0, 3.9, 4.1, 1.0])
    said: list[str] = []
    made, own = trainer(network, tmp_path, settings)
    made.validate = lambda: next(losses)
    made.say = said.append
    done = made.go()
    assert (done.steps, done.best_step, done.best_loss, done.last_loss) == (16, 10, 3.9, 4.1)
    assert done.stopped_early and "stopped early at step 16 of 40" in said[-1]
    assert state.states(tmp_path)[-1].name == "state-00000016"
    again, same = trainer(network, tmp_path, settings)  # killed between its last state and its end
    again.validate = lambda: pytest.fail("it went on")
    assert again.go().steps == 16 and all(torch.equal(own[n], same[n]) for n in own)
    with_more = replace(settings, patience=None)
    (tmp_path / "more").mkdir()
    made, _ = trainer(network, tmp_path / "more", with_more)
    assert not made.go().stopped_early
