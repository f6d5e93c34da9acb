"""The range test against what mathematics says of a parabola, and that it leaves nothing behind."""

from __future__ import annotations

import json
import math

import pytest
import torch
from test_methods import TEXTS, model

import groundup as gu
from groundup.core.errors import GroundupError, UsageError
from groundup.training.loop import NotANumber
from groundup.training.range_test import judged, sweep

pytestmark = pytest.mark.usefixtures("one_thread")


def descent(curvature: float):
    """Plain steps down loss = curvature / 2 · w²: they shrink w for rates below 2 / curvature, and let it grow above."""
    w = 3.0

    def update(rate: float) -> float:
        nonlocal w
        loss = curvature / 2 * w * w
        w -= rate * curvature * w
        if not math.isfinite(loss):
            raise NotANumber("inf")
        return 1.0 + loss

    return update


@pytest.mark.parametrize("curvature", [0.01, 1.0, 300.0])
def test_the_suggestion_lies_below_what_a_parabola_bears(curvature):
    low, high = 1e-5 / curvature, 1e3 / curvature
    found = sweep(descent(curvature), steps=200, lowest=low, highest=high)
    bears = 2 / curvature
    assert found.lost is not None and bears < found.lost < 20 * bears
    assert found.suggestion <= found.lost / 10 and bears / 1000 < found.suggestion < bears
    assert found.rates[-1] < high  # it broke off
    factors = {round(b / a, 9) for a, b in zip(found.rates, found.rates[1:], strict=False)}
    assert len(factors) == 1


def test_the_steepest_place_of_a_known_curve():
    rates = [10 ** (-6 + 6 * i / 199) for i in range(200)]
    losses = [3 - 2 / (1 + math.exp(-4 * (math.log10(r) + 3))) for r in rates]  # steepest at 1e-3
    found = judged(rates, losses, diverged=False)
    assert found.steepest == pytest.approx(1e-3, rel=0.08) and found.suggestion == found.steepest
    assert found.lost is None
    cut = judged(rates[:120], [*losses[:110], *[9.0] * 10], diverged=True)
    assert cut.lost is not None and cut.suggestion <= cut.lost / 10 + 1e-12 < cut.steepest


def test_where_nothing_is_learned_no_rate_is_suggested():
    noise = torch.Generator().manual_seed(0)
    with pytest.raises(GroundupError, match="fell at no rate"):
        sweep(lambda rate: 2.0 + 0.1 * float(torch.randn((), generator=noise)), steps=100)
    with pytest.raises(GroundupError, match="fell at no rate"):
        sweep(descent(1.0), steps=100, lowest=1e-12, highest=1e-9)
    with pytest.raises(GroundupError, match="begin with lower rates"):
        sweep(lambda rate: math.nan)


def test_ranges_that_are_none():
    for how in ({"lowest": 0.0}, {"lowest": 1.0, "highest": 0.1}, {"highest": math.inf}, {"steps": 5}):
        with pytest.raises(UsageError):
            sweep(descent(1.0), **how)


def test_a_model_is_the_same_to_the_bit_and_its_rate_trains(tmp_path):
    tuned = gu.adapt(model(), gu.LoRA(rank=3, targets="all"))
    before = {n: p.detach().clone() for n, p in tuned.network.named_parameters()}
    told: list[tuple[int, int]] = []
    found = gu.find_learning_rate(tuned, TEXTS, steps=60, batch=8, precision="float32",
                                  on_progress=lambda step, steps, **facts: told.append((step, steps)))  # fmt: skip
    assert all(torch.equal(p, before[n]) for n, p in tuned.network.named_parameters())
    assert told == [(i + 1, 60) for i in range(len(found.rates))]
    assert 1e-5 < found.suggestion < 1
    found.png(tmp_path / "rates.png")
    assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")
    again = gu.find_learning_rate(tuned, TEXTS, steps=60, batch=8, precision="float32")
    assert again == found
    ends = [
        gu.finetune(tuned, TEXTS, out=tmp_path / name, steps=20, batch=8, precision="float32", learning_rate=rate)
        for name, rate in (("found", found.suggestion), ("low", found.suggestion / 1000))
    ]
    assert ends[0].best_loss < ends[1].best_loss


def test_validation_on_the_rows_of_training_is_refused(tmp_path):
    rows, more = tmp_path / "train.jsonl", tmp_path / "more.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in TEXTS))
    more.write_text(json.dumps(TEXTS[3]) + "\n" + json.dumps({"text": "another"}) + "\n")
    tuned, said = gu.adapt(model(), gu.LoRA(rank=3)), list[str]()
    how = {"out": tmp_path / "run", "steps": 1, "dry_run": True, "precision": "float32", "say": said.append}
    with pytest.raises(UsageError, match="is trained on too"):
        gu.finetune(tuned, rows, validation=rows, **how)
    gu.finetune(tuned, rows, validation=more, **how)
    assert any(line.startswith("1 of 2 validation rows") for line in said)
    with pytest.raises(UsageError, match="takes no --beta2"):
        gu.finetune(tuned, rows, optimizer="sgd", learning_rate=0.1, beta2=0.9, **how)


def test_what_it_cannot_do():
    tuned = gu.adapt(model(), gu.LoRA(rank=3))
    with pytest.raises(UsageError, match="adapt the model first"):
        gu.find_learning_rate(model(), TEXTS)
    with pytest.raises(UsageError, match="counts in updates"):
        gu.find_learning_rate(tuned, TEXTS, minutes=1.0)
