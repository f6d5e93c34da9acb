"""The keys and values of a call, laid side by side, and the attention of its tokens to them.

`attend` and its quicker forms are told here what a query may see: by tiles where rows are long, by a mask else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from groundup.nn.attention import attend, attend_fused
from groundup.nn.positions import Bias
from groundup.nn.step import Step
from groundup.nn.tiled import attend_tiled, in_tiles


@dataclass(frozen=True)
class Square:
    """Keys of every row side by side.

    k, v      [B, S, Hkv, Dh]
    name      tells these keys' layout from others of the same call (for facts that all layers share)
    past      [B] keys that stand before the call's own in each row
    lengths   [B] real keys in each row; None: all S
    own       the last keys are the call's own tokens (self-attention)
    """

    k: Float[Tensor, "B S Hkv Dh"]
    v: Float[Tensor, "B S Hkv Dv"]
    name: str
    past: tuple[int, ...]
    lengths: tuple[int, ...] | None
    own: bool = True

    def attend(
        self,
        q: Float[Tensor, "T H Dh"],
        step: Step,
        *,
        causal: bool,
        scale: float,
        bias: Bias | None = None,
        window: int | None = None,
        cap: float | None = None,
        path: str = "",
    ) -> Float[Tensor, "T H Dv"]:
        rows, size = step.rows, self.k.shape[1]
        shown = None if step.taps is None else step.taps.weights
        if window is not None and window >= size:
            window = None  # every key is near
        causal = causal and self.own
        laid = rows.pad(q).transpose(1, 2)
        k, v = self.k.transpose(1, 2), self.v.transpose(1, 2)
        if shown is None and in_tiles(laid, size, bias=bias is not None, cap=cap is not None):
            sees = partial(self._sees, causal, window)
            added = None if bias is None else partial(self._bias, bias)
            learned = [p for p in getattr(bias, "parameters", tuple)() if p.requires_grad]
            out = attend_tiled(laid, k, v, scale=scale, sees=sees, bias=added, learned=learned, cap=cap)
            return rows.unpad(out.transpose(1, 2))
        fused, whole = cap is None and shown is None, (slice(0, rows.longest), slice(0, size))
        # queries and keys that start together need no mask: the triangle hides what stands behind a short row
        triangle = fused and causal and window is None and bias is None and not any(self.past)
        found: Tensor | bool = True
        if not triangle:
            found = step.fact(("mask", self.name, causal, window), lambda: self._mask(causal, window, *whole))
        mask = found if isinstance(found, Tensor) else None
        scores = None
        if bias is not None:
            if bias.trains:
                scores = self._bias(bias, *whole).to(q.dtype)
            else:
                scores = step.fact(("bias", bias, self.name, q.dtype), lambda: self._bias(bias, *whole).to(q.dtype))
        if fused:
            out = attend_fused(laid, k, v, scale=scale, causal=triangle, mask=mask, bias=scores)
        else:
            see = None if shown is None else partial(shown.__setitem__, path)
            out = attend(laid, k, v, scale=scale, mask=mask, bias=scores, cap=cap, see=see)
        return rows.unpad(out.transpose(1, 2))

    def over(self, run: Callable[[Tensor, tuple[int, ...]], Tensor], step: Step) -> Float[Tensor, "T ..."]:
        """What `run` makes of all that each row holds, for the call's own tokens (see `Keys.over`)."""
        return step.rows.unpad(run(self.k, self.past))

    def _places(self, queries: slice, keys: slice) -> tuple[Int[Tensor, "#B L"], Int[Tensor, " S"]]:
        """Where queries and keys stand, counted in keys (not in positions: a prefix takes a place)."""
        device = self.k.device
        past = torch.tensor(self.past if len(set(self.past)) > 1 else self.past[:1], device=device)[:, None]
        own, held = (torch.arange(part.start, part.stop, device=device) for part in (queries, keys))
        return past + own, held

    def _sees(self, causal: bool, window: int | None, queries: slice, keys: slice) -> Bool[Tensor, "#B #L S"] | bool:
        """The mask of a tile; False where none of its queries may look at any of its keys."""
        first, last = min(self.past) + queries.start, max(self.past) + queries.stop - 1
        ahead = causal and keys.start > last
        behind = window is not None and keys.stop - 1 <= first - window
        filler = self.lengths is not None and keys.start >= max(self.lengths)
        return False if ahead or behind or filler else self._mask(causal, window, queries, keys)

    def _mask(self, causal: bool, window: int | None, queries: slice, keys: slice) -> Bool[Tensor, "#B #L S"] | bool:
        """True where a query may look; one True if everywhere."""
        first, last = min(self.past) + queries.start, max(self.past) + queries.stop - 1
        q, k = self._places(queries, keys)
        sees: Tensor | None = None
        if causal and keys.stop - 1 > first:
            sees = k <= q[..., None]  # [B, L, S]
        if window is not None and keys.start <= last - window:
            near = k > q[..., None] - window
            sees = near if sees is None else sees & near
        if not causal and self.lengths is not None and min(self.lengths) < keys.stop:
            real = (k < torch.tensor(self.lengths, device=k.device)[:, None])[:, None]
            sees = real if sees is None else sees & real
        return True if sees is None else sees

    def _bias(self, bias: Bias, queries: slice, keys: slice) -> Float[Tensor, "#B H L S"]:
        q, k = self._places(queries, keys)
        return bias(q, k[None])
