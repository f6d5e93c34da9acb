"""Attention in tiles: the numbers of `attend`, and never more of the square of scores than one tile.

            keys ──▶
    queries ┌────┬────┬────┐     each row of tiles is read from left to right; what is kept of it is the largest score
       │    │ m  │skip│skip│     m so far, the sum l of exp(s - m), and the sum o of exp(s - m) v:
       ▼    ├────┼────┼────┤
            │    │ m  │skip│         m' = max(m, max s)    l' = exp(m - m') l + Σ exp(s - m')
            ├────┼────┼────┤         o' = exp(m - m') o + exp(s - m') v          at the end  o / l
            │    │    │ m  │
            └────┴────┴────┘     m: a tile with a mask; skip: nothing in it may be seen

Dao et al., FlashAttention (arXiv 2205.14135, algorithms 1, 2 and 4), in plain PyTorch. What is kept for the way back is
the output and log Σ exp s of each query, so memory grows with the length alone; the scores are made again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Sees = Callable[[slice, slice], Bool[Tensor, "#B #L S"] | bool]
Scores = Callable[[slice, slice], Float[Tensor, "#B H #L S"]]

# Scores a head from which a CPU takes tiles, measured in whole networks: with a cap they are quicker from there on (1.3
# times at 512 tokens, 4.5 at 2,048); with a bias training takes 5 to 15 % longer at 2,048, in a fifth to a tenth of the
# memory.
CAPPED = 512 * 512
BIASED = 2048 * 2048
TILE = (
    2**18
)  # scores a tile, over all rows and heads: what a core's own memory holds (measured: 2^17 to 2^19 are alike)
SIDES = 64, 512  # the shortest and the longest side of a tile


def attend_tiled(
    q: Float[Tensor, "B H L Dh"],
    k: Float[Tensor, "B Hkv S Dh"],
    v: Float[Tensor, "B Hkv S Dv"],
    *,
    scale: float,
    sees: Sees | None = None,
    bias: Scores | None = None,
    learned: Sequence[Tensor] = (),
    cap: float | None = None,
    side: int | None = None,
) -> Float[Tensor, "B H L Dv"]:
    """The same numbers as `attend`, in memory that grows with L + S.

    sees     of some queries and keys: where they may look, or True (everywhere) or False (nowhere: the tile is skipped)
    bias     of some queries and keys: what is added to their scores
    learned  the parameters that `bias` is made of and that learn: it is called again on the way back
    side     of a tile, in queries and keys (None: what suits the number of rows and heads)
    """
    if side is None:
        most = math.isqrt(TILE // max(1, q.shape[0] * q.shape[1]))
        side = min(max(1 << max(most.bit_length() - 1, 0), SIDES[0]), SIDES[1])
    return _Tiled.apply(q, k, v, scale, sees, bias, cap, side, *learned)


def in_tiles(q: Float[Tensor, "B H L Dh"], size: int, *, bias: bool, cap: bool) -> bool:
    """Whether L queries and `size` keys are worth tiles: where PyTorch's kernel would need the square to be formed."""
    least = CAPPED if cap else BIASED if bias else math.inf
    return q.device.type == "cpu" and q.shape[2] * size >= least


class _Tiled(torch.autograd.Function):
    """With p = exp(s - log Σ exp s) and D = Σ (g o) of each query:  dv = pᵀ g,  ds = p (g vᵀ - D),  dq = scale · ds k,
    dk = scale · dsᵀ q;  through a cap, ds is multiplied by 1 - (s / cap)².

    Heads that share a key head stand below each other, as in `attention._Short`. Sums are kept in float32 at least.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: float,
        sees: Sees | None,
        bias: Scores | None,
        cap: float | None,
        side: int,
        *learned: Tensor,
    ) -> Tensor:
        tiles = _Tiles(q, k, v, scale, sees, bias, cap, side)
        out = q.new_empty(*q.shape[:3], v.shape[3])
        norm = q.new_empty(q.shape[:3], dtype=tiles.wide)  # log Σ exp s
        for rows in tiles.rows():
            query = tiles.queries(rows)
            shape = (*q.shape[:2], rows.stop - rows.start)
            most = norm.new_full(shape, -math.inf)
            total, mixed = norm.new_zeros(shape), norm.new_zeros(*shape, v.shape[3])
            for columns, mask in tiles.seen(rows):
                scores, _ = tiles.scores(query, rows, columns, mask)
                higher = torch.maximum(most, scores.amax(-1))
                level = higher.masked_fill(higher == -math.inf, 0.0)  # a query that has seen nothing yet
                weights = scores.sub_(level[..., None]).exp_()
                fade = (most - level).exp_()
                total.mul_(fade).add_(weights.sum(-1))
                mixed.mul_(fade[..., None]).add_(tiles.mix(weights, columns))
                most = higher
            blind = total == 0
            out[:, :, rows] = mixed / total.masked_fill(blind, 1.0)[..., None]
            norm[:, :, rows] = (most + total.log()).masked_fill_(blind, math.inf)
        ctx.save_for_backward(q, k, v, out, norm, *learned)
        ctx.how = scale, sees, bias, cap, side
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, norm, *learned = ctx.saved_tensors
        tiles = _Tiles(q, k, v, *ctx.how)
        scale, _, bias, cap, _ = ctx.how
        dq = torch.zeros_like(q, memory_format=torch.contiguous_format)
        dk, dv = (torch.zeros_like(t, dtype=tiles.wide) for t in (tiles.k, tiles.v))
        taught = [p for p, needed in zip(learned, ctx.needs_input_grad[8:], strict=True) if needed]
        dlearned = [torch.zeros_like(p) for p in taught]
        for rows in tiles.rows():
            query = tiles.queries(rows)
            g = tiles.folded(grads[0][:, :, rows])
            level = norm[:, :, rows, None]
            own = (grads[0][:, :, rows].to(tiles.wide) * out[:, :, rows]).sum(-1, keepdim=True)
            toward = torch.zeros_like(query, dtype=tiles.wide)
            for columns, mask in tiles.seen(rows):
                scores, capped = tiles.scores(query, rows, columns, mask, keep=True)
                weights = scores.sub_(level).exp_()
                p = tiles.folded(weights.to(q.dtype))
                dv[:, columns] += torch.bmm(p.mT, g)
                change = torch.bmm(g, tiles.v[:, columns].mT).view(weights.shape).to(tiles.wide)
                change = change.sub_(own).mul_(weights)
                if taught and bias is not None:
                    with torch.enable_grad():
                        made = bias(rows, columns)
                    part = change.sum_to_size(made.shape).to(made.dtype)
                    for held, more in zip(dlearned, torch.autograd.grad(made, taught, part), strict=True):
                        held += more
                if cap is not None and capped is not None:
                    change.mul_(capped.div_(cap).square_().neg_().add_(1.0))
                ds = tiles.folded(change.to(q.dtype))
                toward += torch.bmm(ds, tiles.k[:, columns])
                dk[:, columns] += torch.bmm(ds.mT, query)  # the queries are scaled already
            dq[:, :, rows] = (toward * scale).view(*q.shape[:2], -1, q.shape[3]).to(q.dtype)
        given = iter(dlearned)
        back = [next(given) if needed else None for needed in ctx.needs_input_grad[8:]]
        return dq, dk.view(k.shape).to(k.dtype), dv.view(v.shape).to(v.dtype), *(None,) * 5, *back


class _Tiles:
    """The square of scores [B, H, L, S], cut.

    k and v stand as [B · Hkv, S, D], a tile's queries as [B · Hkv, H/Hkv · l, D].
    """

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: float,
        sees: Sees | None,
        bias: Scores | None,
        cap: float | None,
        side: int,
    ):
        self.q, self.scale, self.sees, self.bias, self.cap, self.side = q, scale, sees, bias, cap, side
        self.k, self.v = (t.reshape(-1, *t.shape[2:]) for t in (k, v))
        self.wide = torch.float64 if q.dtype == torch.float64 else torch.float32

    def rows(self) -> list[slice]:
        return _cut(self.q.shape[2], self.side)

    def seen(self, rows: slice) -> list[tuple[slice, Tensor | None]]:
        """The tiles of a row in which something may be seen, with a mask where not all of it may be."""
        columns = _cut(self.k.shape[1], self.side)
        if self.sees is None:
            return [(c, None) for c in columns]
        found = [(c, self.sees(rows, c)) for c in columns]
        return [(c, mask if isinstance(mask, Tensor) else None) for c, mask in found if mask is not False]

    def queries(self, rows: slice) -> Tensor:
        return self.folded(self.q[:, :, rows] * self.scale)

    def folded(self, x: Tensor) -> Tensor:
        return x.reshape(self.k.shape[0], -1, x.shape[3])

    def scores(
        self, query: Tensor, rows: slice, columns: slice, mask: Tensor | None, keep: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """The scores of a tile [B, H, l, s] as softmax gets them; and, where kept, as the cap gave them."""
        flat = torch.bmm(query, self.k[:, columns].mT)
        scores = flat.view(*self.q.shape[:2], rows.stop - rows.start, flat.shape[2]).to(self.wide)
        capped = None
        if self.cap is not None:
            scores = scores.div_(self.cap).tanh_().mul_(self.cap)
            capped = scores.clone() if keep else None
        if self.bias is not None:
            scores.add_(self.bias(rows, columns).detach())
        if mask is not None:
            scores.masked_fill_(~mask[:, None], -math.inf)
        return scores, capped

    def mix(self, weights: Tensor, columns: slice) -> Tensor:
        mixed = torch.bmm(self.folded(weights.to(self.q.dtype)), self.v[:, columns])
        return mixed.view(*weights.shape[:3], -1)


def _cut(length: int, side: int) -> list[slice]:
    return [slice(begin, min(begin + side, length)) for begin in range(0, length, side)]
