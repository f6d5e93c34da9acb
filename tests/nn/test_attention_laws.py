"""What attention must obey whatever its weights are: laws, tried on drawn sizes and numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from groundup.nn.attention import Attention, attend, attend_fused
from groundup.nn.cache import Fresh
from groundup.nn.positions import Alibi, Rotary, frequencies
from groundup.nn.step import Step, Taps

FORMS = [attend, attend_fused]
SIZES = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 7), st.integers(1, 9), st.integers(0, 10**6))
few = settings(max_examples=30, deadline=None)


def drawn(sizes: tuple[int, int, int, int, int]) -> tuple[Tensor, Tensor, Tensor, torch.Generator]:
    """q [B, 2 Hkv, L, 6], k and v [B, Hkv, S, 6 and 4], in float64: what is equal in exact numbers is equal to 1e-12."""
    batch, heads, length, size, seed = sizes
    g = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=g)

    return some(batch, 2 * heads, length, 6), some(batch, heads, size, 6), some(batch, heads, size, 4), g


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@few
@given(sizes=SIZES)
def test_permuting_queries_permutes_what_they_get(form, sizes) -> None:
    q, k, v, g = drawn(sizes)
    order = torch.randperm(q.shape[2], generator=g)
    assert close(form(q[:, :, order], k, v, scale=0.4), form(q, k, v, scale=0.4)[:, :, order])


@pytest.mark.parametrize("form", FORMS)
@few
@given(sizes=SIZES)
def test_permuting_keys_with_their_values_changes_nothing(form, sizes) -> None:
    q, k, v, g = drawn(sizes)
    order = torch.randperm(k.shape[2], generator=g)
    before = form(q, k, v, scale=0.4)
    assert close(form(q, k[:, :, order], v[:, :, order], scale=0.4), before)
    if not torch.equal(order, torch.arange(len(order))):
        assert not close(form(q, k[:, :, order], v, scale=0.4), before)  # keys alone do change something


@pytest.mark.parametrize("form", FORMS)
@few
@given(sizes=SIZES, shift=st.floats(-50, 50))
def test_weights_sum_to_one_and_do_not_see_what_all_scores_share(form, sizes, shift) -> None:
    q, k, v, _ = drawn(sizes)
    ones = torch.ones_like(v)
    assert close(form(q, k, ones, scale=0.4), torch.ones(*q.shape[:3], 4, dtype=torch.float64))
    bias = torch.full((1, q.shape[1], 1, k.shape[2]), shift, dtype=torch.float64)
    assert close(form(q, k, v, scale=0.4, bias=bias), form(q, k, v, scale=0.4))
    found: list[Tensor] = []
    attend(q, k, v, scale=0.4, see=found.append)
    assert found[0].min() >= 0 and close(found[0].sum(-1), torch.ones(q.shape[:3], dtype=torch.float64))


@pytest.mark.parametrize("form", FORMS)
@few
@given(sizes=SIZES)
def test_outputs_lie_between_the_least_and_the_greatest_value(form, sizes) -> None:
    q, k, v, _ = drawn(sizes)
    out = form(q, k, v, scale=0.4)
    low, high = (e.repeat_interleave(2, 1)[:, :, None] for e in (v.amin(2), v.amax(2)))
    assert (out >= low - 1e-12).all() and (out <= high + 1e-12).all()


@pytest.mark.parametrize("form", FORMS)
@few
@given(sizes=SIZES)
def test_what_is_masked_counts_for_nothing_and_all_masked_gives_zeros(form, sizes) -> None:
    q, k, v, g = drawn(sizes)
    mask = torch.rand(q.shape[0], q.shape[2], k.shape[2], generator=g) < 0.5
    got = form(q, k, v, scale=0.4, mask=mask)
    assert torch.isfinite(got).all()
    nowhere = ~mask.any(-1)
    assert not got.transpose(1, 2)[nowhere].any()
    hidden = ~mask.any(1)  # keys that nobody of the row sees
    k, v = k.clone(), v.clone()
    k.transpose(1, 2)[hidden], v.transpose(1, 2)[hidden] = 1e3, -1e3
    assert close(form(q, k, v, scale=0.4, mask=mask), got)


# --- the part ---------------------------------------------------------------------------------------------------------

WIDTH = 12


def part(seed: int, **how: object) -> Attention:
    made = Attention(WIDTH, heads=4, **how)  # type: ignore[arg-type]
    g = torch.Generator().manual_seed(seed)
    for p in made.parameters():
        p.data = torch.randn(p.shape, dtype=torch.float64, generator=g) * 0.4
    return made


POSITIONS = {
    "rotary": {"rotary": Rotary(frequencies(WIDTH // 4 * 2, 100.0)), "head_dim": 6},
    "alibi": {"score_bias": Alibi(4)},
}


@few
@given(length=st.integers(2, 9), seed=st.integers(0, 10**6))
def test_without_positions_a_permuted_text_gives_the_same_permuted(length, seed) -> None:
    g = torch.Generator().manual_seed(seed)
    x, order = torch.randn(length, WIDTH, dtype=torch.float64, generator=g), torch.randperm(length, generator=g)
    step = Step.of([length], Fresh())
    plain = part(seed)
    assert close(plain(x[order], step), plain(x, step)[order])
    moved = not torch.equal(order, torch.arange(length))
    for how in POSITIONS.values():  # the control: with positions it is not so
        placed = part(seed, **how)
        assert close(placed(x[order], step), placed(x, step)[order]) != moved


@few
@given(length=st.integers(2, 9), edited=st.integers(1, 8), seed=st.integers(0, 10**6))
def test_the_past_does_not_hear_of_the_future(length, edited, seed) -> None:
    edited = min(edited, length - 1)
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(length, WIDTH, dtype=torch.float64, generator=g)
    other = x.clone()
    other[edited:] += torch.randn(length - edited, WIDTH, dtype=torch.float64, generator=g)
    causal, both = part(seed, causal=True), part(seed)
    step = Step.of([length], Fresh())
    assert torch.equal(causal(x, step)[:edited], causal(other, step)[:edited])
    assert (both(x, step)[:edited] != both(other, step)[:edited]).any()  # the control


@pytest.mark.parametrize("how", [{}, *POSITIONS.values()], ids=["none", *POSITIONS])
def test_what_is_left_in_the_taps_is_what_was_used(how) -> None:
    made = part(3, causal=True, **how)
    made.path = "here"
    x = torch.randn(7, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kept: dict[str, Tensor] = {}
    plain = made(x, Step.of([7], Fresh()))
    assert close(made(x, Step.of([7], Fresh(), taps=Taps(weights=kept))), plain)
    v = made.v(x, Step.of([7], Fresh())).unflatten(-1, (4, -1))
    mixed = torch.einsum("hls,shd->lhd", kept["here"][0], v).flatten(1)
    assert close(made.o(mixed, Step.of([7], Fresh())), plain)
    assert not kept["here"][0].triu(1).any() and math.isclose(kept["here"].sum().item(), 4 * 7)
