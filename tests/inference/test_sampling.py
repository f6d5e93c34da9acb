"""Each weighing of scores against the reference's own, and what a draw and a wrong value do."""

from __future__ import annotations

import math

import pytest
import torch
import transformers

from groundup.core.errors import UsageError
from groundup.inference.sampling import Sampling, draw, keep_min_p, keep_top_k, keep_top_p, likeliest, penalize, weigh


@pytest.fixture
def scores() -> torch.Tensor:
    return torch.randn(5, 97, generator=torch.Generator().manual_seed(1)) * 3


def same(got: torch.Tensor, want: torch.Tensor) -> bool:
    return torch.equal(got.isinf(), want.isinf()) and torch.allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("k", [1, 7, 96, 97, 500])
def test_top_k(scores, k):
    assert same(keep_top_k(scores, k), transformers.TopKLogitsWarper(k)(None, scores))
    assert k >= 97 or not same(keep_top_k(scores, k), transformers.TopKLogitsWarper(k + 1)(None, scores))


@pytest.mark.parametrize("p", [0.0, 0.3, 0.9, 0.999])
def test_top_p(scores, p):
    assert same(keep_top_p(scores, p), transformers.TopPLogitsWarper(p)(None, scores))
    assert not keep_top_p(scores, p).isinf().all(1).any()
    assert not same(keep_top_p(scores, p), scores)


@pytest.mark.parametrize("p", [0.02, 0.5, 1.0])
def test_min_p(scores, p):
    assert same(keep_min_p(scores, p), transformers.MinPLogitsWarper(p)(None, scores))
    assert not same(keep_min_p(scores, p), keep_min_p(scores, p / 2))


@pytest.mark.parametrize("penalty", [0.7, 1.3])
def test_repetition_penalty(scores, penalty):
    ids = torch.randint(97, (5, 11), generator=torch.Generator().manual_seed(2))
    want = transformers.RepetitionPenaltyLogitsProcessor(penalty)(ids, scores)
    got = torch.stack([penalize(s, i.tolist(), penalty) for s, i in zip(scores, ids, strict=True)])
    assert same(got, want) and not same(got, scores)


def test_the_order_is_the_references(scores):
    warpers = [
        transformers.TemperatureLogitsWarper(0.6), transformers.TopKLogitsWarper(20),
        transformers.TopPLogitsWarper(0.8), transformers.MinPLogitsWarper(0.1),
    ]  # fmt: skip
    want = scores
    for warper in warpers:
        want = warper(None, want)
    assert same(weigh(scores, Sampling(temperature=0.6, top_k=20, top_p=0.8, min_p=0.1)), want)
    for warper in warpers[::-1]:
        scores = warper(None, scores)
    assert not same(scores, want), "in another order other tokens are left"


def test_zero_means_zero(scores):
    assert same(weigh(scores, Sampling(temperature=1.0, top_k=0, min_p=0.0)), scores)
    assert (weigh(scores, Sampling(top_p=0.0)).isfinite().sum(1) == 1).all()
    assert Sampling(temperature=0).greedy and Sampling(max_tokens=0).max_tokens == 0


def test_draws_follow_the_probabilities():
    p = torch.tensor([0.5, 0.0, 0.2, 0.3, 0.0])
    generator = torch.Generator().manual_seed(0)
    drawn = draw(p.log().expand(20_000, 5), [generator] * 20_000)
    shares = torch.bincount(drawn, minlength=5) / 20_000
    assert shares[1] == shares[4] == 0
    assert (shares - p).abs().max() < 4 * math.sqrt(0.25 / 20_000)  # four standard deviations


def test_likeliest_is_argmax(scores):
    assert [t for t, _ in likeliest(scores)] == scores.argmax(1).tolist()
    scores[2, 5] = math.nan
    assert math.isnan(likeliest(scores)[2][1])


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": -1}, {"temperature": -0.1}, {"temperature": math.nan}, {"temperature": math.inf}, {"top_k": -2},
        {"top_p": 1.1}, {"min_p": -0.1}, {"repetition_penalty": 0}, {"stop": ("",)}, {"n": 0}, {"beams": 0},
        {"beams": 2}, {"beams": 2, "n": 2, "temperature": 0}, {"n": 2, "temperature": 0}, {"seed": 2**64},
    ],
)  # fmt: skip
def test_wrong_values_are_named(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Sampling(**wrong)
