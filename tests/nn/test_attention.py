"""`attend`, `attend_fused` and PyTorch's own mathematics agree, values and gradients; `Attention` leaks nothing."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from groundup.nn.attention import Attention, attend, attend_fused
from groundup.nn.cache import Fresh
from groundup.nn.positions import Alibi, RelativeBias, Rotary, frequencies
from groundup.nn.step import Apart, Memory, Step

B, L, S, DH, DV = 3, 5, 7, 6, 4
SCALE = 0.37


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def by_pytorch(q: Tensor, k: Tensor, v: Tensor, *, scale: float, mask: Tensor | None, bias: Tensor | None) -> Tensor:
    """The oracle: `math` kernel, keys repeated by hand, one float mask."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    where = torch.zeros(q.shape[0], q.shape[1], q.shape[2], k.shape[2], dtype=q.dtype)
    if bias is not None:
        where = where + bias
    if mask is not None:
        where = where.masked_fill(~mask[:, None], -math.inf)
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=where, scale=scale)


def ragged(lengths: tuple[int, ...], size: int, queries: int) -> Tensor:
    real = torch.arange(size) < torch.tensor(lengths)[:, None]
    return real[:, None].expand(-1, queries, -1)


def causal(queries: int, size: int) -> Tensor:
    return (torch.arange(size) <= torch.arange(queries)[:, None] + size - queries)[None]


def window(queries: int, size: int, width: int) -> Tensor:
    places = torch.arange(queries)[:, None] + size - queries
    return causal(queries, size) & (torch.arange(size) > places - width)[None]


MASKS: dict[str, Callable[[int], Tensor | None]] = {
    "all": lambda n: None,
    "ragged": lambda n: ragged((7, 1, 4), S, n),
    "causal": lambda n: causal(n, S),
    "window": lambda n: window(n, S, 3),
    "ragged-causal": lambda n: ragged((7, 3, 5), S, n) & causal(n, S),
}


@pytest.mark.parametrize("heads", [(6, 6), (6, 2), (5, 1)], ids=str)
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("queries", [L, 1])
def test_three_ways_agree(heads: tuple[int, int], kind: str, with_bias: bool, queries: int) -> None:
    h, kv = heads
    q, k, v = leaf(B, h, queries, DH), leaf(B, kv, S, DH), leaf(B, kv, S, DV)
    bias = leaf(1, h, queries, S) if with_bias else None
    mask = MASKS[kind](queries)
    given = [t for t in (q, k, v, bias) if t is not None]
    toward = torch.randn(B, h, queries, DV, dtype=torch.float64)
    want = by_pytorch(q, k, v, scale=SCALE, mask=mask, bias=bias)
    want_grads = torch.autograd.grad(want, given, toward)
    for ours in (attend, attend_fused):
        got = ours(q, k, v, scale=SCALE, mask=mask, bias=bias)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
        for a, b in zip(torch.autograd.grad(got, given, toward), want_grads, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("heads", [(6, 6), (6, 2)], ids=str)
def test_the_triangle_needs_no_mask(heads: tuple[int, int]) -> None:
    h, kv = heads
    q, k, v = leaf(B, h, L, DH), leaf(B, kv, L, DH), leaf(B, kv, L, DV)
    want = attend(q, k, v, scale=SCALE, mask=causal(L, L))
    torch.testing.assert_close(attend_fused(q, k, v, scale=SCALE, causal=True), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("with_bias", [False, True])
def test_a_token_that_may_look_nowhere_gets_zeros(with_bias: bool) -> None:
    q, k, v = leaf(B, 4, L, DH), leaf(B, 2, S, DH), leaf(B, 2, S, DV)
    bias = leaf(1, 4, L, S) if with_bias else None
    mask = torch.ones(B, L, S, dtype=torch.bool)
    mask[1, 2] = False
    for ours in (attend, attend_fused):
        got = ours(q, k, v, scale=SCALE, mask=mask, bias=bias)
        assert not got[1, :, 2].any() and got[1, :, 3].all()
        for grad in torch.autograd.grad(got.sum(), [t for t in (q, k, v, bias) if t is not None]):
            assert torch.isfinite(grad).all()


def test_the_cap_bounds_the_scores() -> None:
    q, k, v = leaf(1, 1, 1, DH), leaf(1, 1, S, DH), torch.eye(S, dtype=torch.float64)[None, None]
    weights = attend(1e4 * q, k, v, scale=1.0, cap=2.0)[0, 0, 0]  # v is the identity, so this is the softmax itself
    assert weights.max() / weights.min() <= math.exp(4.0) * (1 + 1e-9)
    soft = 2.0 * torch.tanh((q @ k.transpose(-1, -2)) / 2.0)
    torch.testing.assert_close(attend(q, k, v, scale=1.0, cap=2.0), soft.softmax(-1), rtol=0, atol=1e-12)


# ---------------------------------------------------------------------------------------------- the part around them

WIDTH = 21


def drawn(part: torch.nn.Module) -> torch.nn.Module:
    for p in part.parameters():
        p.data = torch.randn_like(p, dtype=torch.float64) * 0.4
    return part


def variants() -> dict[str, Callable[[], Attention]]:
    turning = Rotary(frequencies(6, 100.0))
    return {
        "both-ways": lambda: Attention(WIDTH, heads=3),
        "causal": lambda: Attention(WIDTH, heads=3, causal=True),
        "window": lambda: Attention(WIDTH, heads=3, causal=True, window=3),
        "rotary-grouped": lambda: Attention(WIDTH, heads=4, kv_heads=2, head_dim=6, causal=True, rotary=turning),
        "alibi": lambda: Attention(WIDTH, heads=3, causal=True, score_bias=Alibi(3)),
        "capped": lambda: Attention(WIDTH, heads=7, kv_heads=1, causal=True, cap=1.5),
        "window-both-ways": lambda: Attention(WIDTH, heads=3, window=2),
    }


@pytest.mark.parametrize("kind", variants())
def test_a_row_does_not_see_the_others(kind: str) -> None:
    part = drawn(variants()[kind]())
    rows = [torch.randn(n, WIDTH, dtype=torch.float64) for n in (5, 1, 8, 3)]
    together = part(torch.cat(rows), Step.of([5, 1, 8, 3], Fresh())).split([5, 1, 8, 3])
    for row, got in zip(rows, together, strict=True):
        torch.testing.assert_close(got, part(row, Step.of([len(row)], Fresh())), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [k for k in variants() if "both-ways" not in k])
def test_the_future_changes_nothing_before_it(kind: str) -> None:
    part = drawn(variants()[kind]())
    x = torch.randn(13, WIDTH, dtype=torch.float64)
    edited = x.clone()
    edited[3] += 1.0  # the fourth token of the first row
    step = Step.of([5, 8], Fresh())
    before, after = part(x, step), part(edited, step)
    assert torch.equal(before[:3], after[:3]) and torch.equal(before[5:], after[5:])
    assert (before[3:5] != after[3:5]).any(-1).all()


def test_the_window_ends_where_it_says() -> None:
    part = drawn(Attention(WIDTH, heads=3, causal=True, window=3))
    x = torch.randn(8, WIDTH, dtype=torch.float64)
    edited = x.clone()
    edited[1] += 1.0
    step = Step.of([8], Fresh())
    changed = (part(x, step) != part(edited, step)).any(-1)
    assert changed.tolist() == [False, True, True, True, False, False, False, False]


def test_encoders_see_both_ways() -> None:
    part = drawn(Attention(WIDTH, heads=3))
    x = torch.randn(8, WIDTH, dtype=torch.float64)
    edited = x.clone()
    edited[6] += 1.0
    step = Step.of([8], Fresh())
    assert (part(x, step) != part(edited, step)).any(-1).all()


def test_cross_attention_sees_its_own_memory_and_all_of_it() -> None:
    part = drawn(Attention(WIDTH, heads=3, memory_width=9))
    x, memory = torch.randn(6, WIDTH, dtype=torch.float64), torch.randn(9, 9, dtype=torch.float64)
    lengths, sources = [2, 1, 3], [4, 5, 0]
    step = Step.of(lengths, Fresh(), memory=Memory(memory, Step.of(sources, Fresh())))
    got = part(x, step)
    for i, (a, b, s, t) in enumerate(((0, 2, 0, 4), (2, 3, 4, 9))):
        alone = Step.of([lengths[i]], Fresh(), memory=Memory(memory[s:t], Step.of([t - s], Fresh())))
        torch.testing.assert_close(got[a:b], part(x[a:b], alone), rtol=0, atol=1e-12)
    assert part.o.bias is not None
    torch.testing.assert_close(got[3:], part.o.bias.expand(3, -1), rtol=0, atol=0)  # no memory: zeros before `o`


def test_a_trained_bias_gets_its_gradient_once_a_layer() -> None:
    bias = drawn(RelativeBias(3, buckets=8, furthest=11, both_ways=False))
    for p in bias.parameters():
        p.requires_grad = True
    part = drawn(Attention(WIDTH, heads=3, causal=True, score_bias=bias))
    assert not any("bias" in n for n, _ in part.named_parameters() if "table" in n)  # its owner is the stack
    x, step = torch.randn(7, WIDTH, dtype=torch.float64), Step.of([7], Fresh())
    (once,) = torch.autograd.grad(part(x, step).sum(), [bias.table.weight.values])
    (twice,) = torch.autograd.grad(part(x, step).sum() + part(x, step).sum(), [bias.table.weight.values])
    assert once.abs().sum() > 0
    torch.testing.assert_close(twice, 2 * once)


def test_keys_apart_have_a_softmax_and_a_gate_of_their_own() -> None:
    part = drawn(Attention(WIDTH, heads=3))
    part.path = "here"
    x = torch.randn(5, WIDTH, dtype=torch.float64)
    k, v = torch.randn(4, 3, 7, dtype=torch.float64), torch.randn(4, 3, 7, dtype=torch.float64)
    plain = part(x, Step.of([2, 3], Fresh()))
    shut = Step.of([2, 3], Fresh(), apart={"here": (Apart(k, v, torch.zeros(3, dtype=torch.float64)),)})
    assert torch.equal(part(x, shut), plain)
    gate = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    open_ = Step.of([2, 3], Fresh(), apart={"here": (Apart(k, v, gate),)})
    q = part.q(x, shut).unflatten(-1, (3, 7))
    beside = torch.einsum("thp,phd->thd", (torch.einsum("thd,phd->thp", q, k) * 7**-0.5).softmax(-1), v)
    want = plain + F.linear((beside * gate[:, None]).flatten(1), part.o.weight.dense())
    torch.testing.assert_close(part(x, open_), want, rtol=0, atol=1e-12)


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="6 heads cannot share 4"):
        Attention(WIDTH, heads=6, kv_heads=4)
