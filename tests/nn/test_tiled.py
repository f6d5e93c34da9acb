"""Attention in tiles gives the numbers of `attend`, values and gradients, and never holds a square."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from groundup.nn import tiled
from groundup.nn.attention import Attention, attend
from groundup.nn.cache import Fresh, Slots
from groundup.nn.positions import Alibi, RelativeBias, Rotary, frequencies
from groundup.nn.step import Step
from groundup.nn.tiled import attend_tiled

B, L, S, DH, DV = 2, 13, 17, 6, 4
SCALE = 0.37


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def masks() -> dict[str, Tensor | None]:
    q, k = torch.arange(L)[:, None] + S - L, torch.arange(S)
    blind = torch.ones(B, L, S, dtype=torch.bool)
    blind[1, 2:7] = False
    return {
        "all": None,
        "causal": (k <= q)[None],
        "window": ((k <= q) & (k > q - 4))[None],
        "ragged": (k < torch.tensor([17, 5])[:, None])[:, None].expand(-1, L, -1),
        "drawn": torch.rand(B, L, S, generator=torch.Generator().manual_seed(1)) < 0.6,
        "blind": blind,
    }


def sees(mask: Tensor | None) -> Any:
    """A mask by tiles; tiles of one kind say so, as the house's do."""
    if mask is None:
        return None

    def tile(queries: slice, keys: slice) -> Tensor | bool:
        part = mask[:, queries, keys]
        return bool(part.all()) if part.all() or not part.any() else part

    return tile


@pytest.mark.parametrize("heads", [(6, 6), (6, 2), (5, 1)], ids=str)
@pytest.mark.parametrize("kind", masks())
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("cap", [None, 1.5])
@pytest.mark.parametrize("side", [3, 8, 32])
def test_same_numbers(heads: tuple[int, int], kind: str, with_bias: bool, cap: float | None, side: int) -> None:
    h, kv = heads
    q, k, v = leaf(B, h, L, DH), leaf(B, kv, S, DH), leaf(B, kv, S, DV)
    bias = leaf(1, h, L, S)
    mask = masks()[kind]
    given = [q, k, v, *([bias] if with_bias else [])]
    want = attend(q, k, v, scale=SCALE, mask=mask, bias=bias if with_bias else None, cap=cap)
    how: dict[str, Any] = {"bias": lambda x, y: bias[:, :, x, y], "learned": [bias]} if with_bias else {}
    got = attend_tiled(q, k, v, scale=SCALE, sees=sees(mask), cap=cap, side=side, **how)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    toward = torch.randn_like(want)
    for a, b in zip(torch.autograd.grad(got, given, toward), torch.autograd.grad(want, given, toward), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["causal", "ragged"])
def test_same_as_pytorchs_own_mathematics(kind: str) -> None:
    q, k, v, bias = leaf(B, 6, L, DH), leaf(B, 2, S, DH), leaf(B, 2, S, DV), leaf(1, 6, L, S)
    mask = masks()[kind]
    assert mask is not None
    where = bias.masked_fill(~mask[:, None], -math.inf)
    with sdpa_kernel(SDPBackend.MATH):
        want = F.scaled_dot_product_attention(q, k, v, attn_mask=where, scale=SCALE, enable_gqa=True)
    tile = lambda x, y: bias[:, :, x, y]
    got = attend_tiled(q, k, v, scale=SCALE, sees=sees(mask), bias=tile, learned=[bias], side=5)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    toward, given = torch.randn_like(want), [q, k, v, bias]
    for a, b in zip(torch.autograd.grad(got, given, toward), torch.autograd.grad(want, given, toward), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    shifted = attend_tiled(q, k, v, scale=SCALE, sees=sees(mask.roll(1, 2)), bias=tile, side=5)
    assert not torch.allclose(shifted, want, atol=1e-3)  # the control: another mask, other numbers


@pytest.mark.parametrize("cap", [None, 1.5])
def test_gradcheck(cap: float | None) -> None:
    q, k, v, bias = leaf(1, 4, 4, 2), leaf(1, 2, 5, 2), leaf(1, 2, 5, 3), leaf(1, 4, 4, 5)
    mask = sees(torch.rand(1, 4, 5) < 0.7)

    def by(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        tile = lambda x, y: bias[:, :, x, y]
        return attend_tiled(q, k, v, scale=SCALE, sees=mask, bias=tile, learned=[bias], cap=cap, side=3)

    assert torch.autograd.gradcheck(by, (q, k, v, bias))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_sums_are_kept_in_float32(dtype: torch.dtype) -> None:
    q, k, v = (torch.randn(1, 2, 300, 16).to(dtype).requires_grad_() for _ in range(3))
    exact = [t.detach().double().requires_grad_() for t in (q, k, v)]
    want = attend(*exact, scale=0.25)
    got = attend_tiled(q, k, v, scale=0.25, side=32)
    assert got.dtype == dtype
    near = 2e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(got.double(), want, rtol=0, atol=near)
    pairs = zip(torch.autograd.grad(got.sum(), [q, k, v]), torch.autograd.grad(want.sum(), exact), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a.double(), b, rtol=0, atol=near * max(1.0, float(b.abs().max())))


# ------------------------------------------------------------------------------------------------ the part around it


class Largest(TorchDispatchMode):
    """The size of the largest tensor that anything makes."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, tuple | list) else [out]:
            if isinstance(t, Tensor):
                self.numbers = max(self.numbers, t.untyped_storage().nbytes() // t.element_size())
        return out


WIDTH = 12
TURNING = Rotary(frequencies(6, 100.0))
VARIANTS: dict[str, dict[str, Any]] = {
    "alibi": {"causal": True, "score_bias": Alibi(2)},
    "capped": {"causal": True, "cap": 1.5, "kv_heads": 1},
    "capped-window": {"causal": True, "cap": 1.5, "window": 5, "rotary": TURNING},
    "both-ways": {"score_bias": Alibi(2)},
}


def drawn(part: nn.Module) -> Any:
    for p in part.parameters():
        p.data = torch.randn_like(p, dtype=torch.float64) * 0.4
        p.requires_grad = True
    return part


@pytest.fixture
def eagerly(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Tiles of the smallest sides, wherever there is a bias or a cap."""
    monkeypatch.setattr(tiled, "CAPPED", 1)
    monkeypatch.setattr(tiled, "BIASED", 1)
    monkeypatch.setattr(tiled, "TILE", 1)
    monkeypatch.setattr(tiled, "SIDES", (4, 4))
    yield monkeypatch


def never(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CAPPED", "BIASED"):
        monkeypatch.setattr(tiled, name, math.inf)


@pytest.mark.parametrize("kind", VARIANTS)
def test_the_part_gives_the_same_in_tiles(kind: str, eagerly: pytest.MonkeyPatch) -> None:
    part, x = drawn(Attention(WIDTH, heads=2, **VARIANTS[kind])), leaf(19, WIDTH)
    given = [x, *part.parameters()]
    in_tiles = part(x, Step.of([11, 1, 7], Fresh()))
    found = torch.autograd.grad(in_tiles.square().sum(), given)
    never(eagerly)
    want = part(x, Step.of([11, 1, 7], Fresh()))
    torch.testing.assert_close(in_tiles, want, rtol=0, atol=1e-12)
    for a, b in zip(found, torch.autograd.grad(want.square().sum(), given), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", [k for k in VARIANTS if k != "both-ways"])
def test_rows_of_a_cache_with_pasts_of_their_own(kind: str, eagerly: pytest.MonkeyPatch) -> None:
    part = drawn(Attention(WIDTH, heads=2, **VARIANTS[kind]))
    rows = [torch.randn(n, WIDTH, dtype=torch.float64) for n in (15, 9)]
    cache, got = Slots(2, 20), [[], []]
    with torch.no_grad():
        for cut in ((6, 1), (5, 5), (4, 3)):
            begins = [sum(len(g) for g in some) for some in got]
            parts = [r[b : b + n] for r, b, n in zip(rows, begins, cut, strict=True)]
            step = Step.of(cut, cache)
            for some, new in zip(got, part(torch.cat(parts), step).split(cut), strict=True):
                some.append(new)
            cache.advance(step)
        never(eagerly)
        for row, some in zip(rows, got, strict=True):
            want = part(row, Step.of([len(row)], Fresh()))
            torch.testing.assert_close(torch.cat(some), want, rtol=0, atol=1e-12)


def test_a_trained_bias_learns_the_same(eagerly: pytest.MonkeyPatch) -> None:
    bias = drawn(RelativeBias(2, buckets=8, furthest=11, both_ways=True))
    part, x = drawn(Attention(WIDTH, heads=2, score_bias=bias)), leaf(19, WIDTH)
    given = [x, bias.table.weight.values]
    found = torch.autograd.grad(part(x, Step.of([11, 8], Fresh())).square().sum(), given)
    never(eagerly)
    want = torch.autograd.grad(part(x, Step.of([11, 8], Fresh())).square().sum(), given)
    for a, b in zip(found, want, strict=True):
        assert b.abs().max() > 1e-3
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_tiles_above_the_diagonal_and_behind_the_window_are_skipped(eagerly: pytest.MonkeyPatch) -> None:
    asked: list[tuple[slice, slice]] = []

    class Noted(Alibi):
        def __call__(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
            asked.append((q_positions[0, 0].item(), k_positions[0, 0].item()))
            return super().__call__(q_positions, k_positions)

    step = Step.of([24], Fresh())  # six tiles a side
    for window, tiles in ((None, 6 * 7 // 2), (5, 6 + 5)):
        asked.clear()
        drawn(Attention(WIDTH, heads=2, causal=True, score_bias=Noted(2), window=window)).double()(
            torch.randn(24, WIDTH, dtype=torch.float64), step
        )
        assert len(asked) == tiles


@pytest.mark.parametrize("how", [{"cap": 5.0}, {"score_bias": Alibi(2)}], ids=["cap", "alibi"])
def test_no_square_is_formed_where_rows_are_long(how: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest tensor that training makes, at 600 and 1,200 tokens; the control is below where tiles begin."""

    monkeypatch.setattr(tiled, "BIASED", tiled.CAPPED)

    def largest(length: int) -> int:
        part = drawn(Attention(8, heads=2, causal=True, **how))
        with Largest() as seen:
            part(torch.randn(length, 8, dtype=torch.float64), Step.of([length], Fresh())).sum().backward()
        return seen.numbers

    assert largest(500) == 2 * 500**2
    assert largest(1200) == largest(600) <= tiled.TILE
