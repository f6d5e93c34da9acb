"""The kinds of cache: one that holds nothing, one whose rows share their beginning, and one that grows row by row.

    Fresh    training and single calls: every key belongs to this call
    Shared   row 0 is what all other rows begin with; it is computed once and they see it as their own past
    Slots    generation: each row of the cache has its own length

All three answer `write` with `Square`s: keys laid side by side, what is real of them, and where they stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from groundup.core.errors import UsageError
from groundup.nn.attention import attend, attend_fused
from groundup.nn.positions import Bias
from groundup.nn.step import Keys, Rows, Step
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


class Fresh:
    """Holds nothing: `write` gives back what it was given, so recomputation in the backward pass is bit-equal.

    What `start` is given stands before every row of the call.
    """

    def __init__(self) -> None:
        self.started: dict[str, tuple[Tensor, Tensor]] = {}
        self.held = 0

    def begins(self, slots: Sequence[int]) -> tuple[bool, ...]:
        return (True,) * len(slots)

    def start(self, path: str, slots: Sequence[int], k: Tensor, v: Tensor) -> None:
        if path in self.started or not all(self.begins(slots)):
            raise UsageError("rows of one call with different prefixes need a cache with rows of their own (Slots)")
        self.started[path] = (k, v)
        self.held = len(k)

    def lengths(self, slots: Sequence[int]) -> tuple[int, ...]:
        return (self.held,) * len(slots)

    def positions(self, rows: Rows, past: Sequence[int]) -> Int[Tensor, " T"]:
        return rows.offset + self.held if self.held else rows.offset

    def write(self, path: str, k: Tensor, v: Tensor, step: Step) -> Keys:
        rows = step.rows
        k, v = rows.pad(k), rows.pad(v)
        if path in self.started:
            before = [t.to(k.dtype).expand(len(rows), *t.shape) for t in self.started[path]]
            k, v = torch.cat((before[0], k), 1), torch.cat((before[1], v), 1)
        lengths = None if rows.even else tuple(self.held + n for n in rows.lengths)
        return Square(k, v, "own", step.past, lengths)

    def fill(self, path: str, k: Tensor, v: Tensor, step: Step) -> Keys:
        return _memory(k, v, step)

    def read(self, path: str, step: Step) -> Keys:
        raise LookupError(
            f"{path}: cross-attention without a memory; give Step.of(..., memory=) or a cache that was filled"
        )


def _memory(k: Tensor, v: Tensor, step: Step) -> Square:
    assert step.memory is not None
    rows = step.memory.step.rows
    past = (0,) * len(step.rows)
    return Square(rows.pad(k), rows.pad(v), "memory", past, None if rows.even else rows.lengths, own=False)


class Shared(Fresh):
    """Row 0 holds what all other rows begin with. It is computed once a call, and they see it as their own past.

        row 0   s s s s            the shared prompt, P tokens
        row 1           a a a      what follows it in the first conversation; positions go on at P
        row 2           b b b b b

    The numbers equal those of whole rows; the shared part costs one row instead of B. Gradients add up in it.
    """

    def begins(self, slots: Sequence[int]) -> tuple[bool, ...]:
        return (True, *(False,) * (len(slots) - 1))

    def positions(self, rows: Rows, past: Sequence[int]) -> Int[Tensor, " T"]:
        return rows.offset + self.held + (rows.row > 0) * rows.lengths[0]

    def write(self, path: str, k: Tensor, v: Tensor, step: Step) -> Keys:
        first, others = step.fact("shared", lambda: _apart_from_first(step.rows))
        size, count = first.total, len(others)
        (k, k_rest), (v, v_rest) = (t.split((size, others.total)) for t in (k, v))
        if path in self.started:
            k, v = (torch.cat((t.to(k.dtype), u)) for t, u in zip(self.started[path], (k, v), strict=True))
        before = Square(k[None], v[None], "first", (self.held,), None)
        size = len(k)
        full = [torch.cat((t.expand(count, *t.shape), others.pad(u)), 1) for t, u in ((k, k_rest), (v, v_rest))]
        lengths = None if others.even else tuple(size + n for n in others.lengths)
        return _Two(before, Square(full[0], full[1], "others", (size,) * count, lengths), first, others)


def _apart_from_first(rows: Rows) -> tuple[Rows, Rows]:
    size = rows.lengths[0]
    return Rows((0, size), rows.device), Rows(tuple(s - size for s in rows.starts[1:]), rows.device)


@dataclass(frozen=True)
class _Two:
    """The shared row attends to itself, the others to it and to themselves."""

    before: Square
    after: Square
    first: Rows
    others: Rows

    def attend(self, q: Float[Tensor, "T H Dh"], step: Step, path: str = "", **how: Any) -> Float[Tensor, "T H Dv"]:
        size, facts, taps = self.first.total, step.facts, step.taps
        one = Step(self.first, step.positions[:size], step.cache, (0,), self.before.past, facts=facts, taps=taps)
        rest = Step(self.others, step.positions[size:], step.cache, (0,), self.after.past, facts=facts, taps=taps)
        mine, theirs = q.split((size, self.others.total))
        shared = self.before.attend(mine, one, path=f"{path}:shared", **how)
        return torch.cat((shared, self.after.attend(theirs, rest, path=path, **how)))


class Slots:
    """Room for `rows` rows of up to `capacity` keys each, every row with its own length.

    Tensors are made when a path is first written, in the format of what is written:  k, v [rows, capacity, Hkv, Dh].
    """

    def __init__(self, rows: int, capacity: int):
        self.rows, self.capacity = rows, capacity
        self.length = [0] * rows
        self.kept: dict[str, tuple[Tensor, Tensor]] = {}
        self.memories: dict[str, tuple[Tensor, Tensor]] = {}
        self.memory_length: list[int] = [0] * rows

    def lengths(self, slots: Sequence[int]) -> tuple[int, ...]:
        return tuple(self.length[s] for s in slots)

    def begins(self, slots: Sequence[int]) -> tuple[bool, ...]:
        return tuple(self.length[s] == 0 for s in slots)

    def positions(self, rows: Rows, past: Sequence[int]) -> Int[Tensor, " T"]:
        if not any(past):
            return rows.offset
        held = torch.tensor(past, device=rows.device)
        return held if rows.even and rows.longest == 1 else rows.offset + held[rows.row]

    def write(self, path: str, k: Tensor, v: Tensor, step: Step) -> Keys:
        if path not in self.kept:
            shape = (self.rows, self.capacity)
            self.kept[path] = (k.new_zeros(*shape, *k.shape[1:]), v.new_zeros(*shape, *v.shape[1:]))
        kept_k, kept_v = self.kept[path]
        rows, past = step.rows, step.past
        whole = step.slots == tuple(range(step.slots[0], step.slots[0] + len(rows)))
        first, end = step.slots[0], step.slots[0] + len(rows)
        if whole and rows.even and len(set(past)) == 1:  # a block of the cache: plain copies
            kept_k[first:end, past[0] : past[0] + rows.longest] = rows.pad(k)
            kept_v[first:end, past[0] : past[0] + rows.longest] = rows.pad(v)
        else:
            slot, place = step.fact("written", lambda: self._written(step))
            kept_k[slot, place], kept_v[slot, place] = k, v
        if not any(past):  # nothing before: the call's own keys are all there is
            return Square(rows.pad(k), rows.pad(v), "own", past, None if rows.even else rows.lengths)
        lengths = tuple(p + n for p, n in zip(past, rows.lengths, strict=True))
        longest = max(lengths)
        if whole:
            k, v = kept_k[first:end, :longest], kept_v[first:end, :longest]
        else:
            index = step.fact("slots", lambda: torch.tensor(step.slots, device=k.device))
            k, v = kept_k[index, :longest], kept_v[index, :longest]
        return Square(k, v, "kept", past, None if min(lengths) == longest else lengths)

    def _written(self, step: Step) -> tuple[Tensor, Tensor]:
        slots = torch.tensor(step.slots, device=step.rows.device)
        past = torch.tensor(step.past, device=step.rows.device)
        return slots[step.rows.row], past[step.rows.row] + step.rows.offset

    def fill(self, path: str, k: Tensor, v: Tensor, step: Step) -> Keys:
        square = _memory(k, v, step)
        size = square.k.shape[1]
        if path not in self.memories or self.memories[path][0].shape[1] < size:
            old = self.memories.get(path)
            new = [t.new_zeros(self.rows, size, *t.shape[2:]) for t in (square.k, square.v)]
            if old is not None:
                for grown, held in zip(new, old, strict=True):
                    grown[:, : held.shape[1]] = held
            self.memories[path] = (new[0], new[1])
        slots = list(step.slots)
        for kept, fresh in zip(self.memories[path], (square.k, square.v), strict=True):
            kept[slots, :size] = fresh
        assert step.memory is not None
        for slot, n in zip(slots, step.memory.step.rows.lengths, strict=True):
            self.memory_length[slot] = n
        return square

    def read(self, path: str, step: Step) -> Keys:
        k, v = self.memories[path]
        lengths = tuple(self.memory_length[s] for s in step.slots)
        longest = max(lengths)
        past = (0,) * len(step.rows)
        first, end = step.slots[0], step.slots[0] + len(step.slots)
        if step.slots == tuple(range(first, end)):
            k, v = k[first:end, :longest], v[first:end, :longest]
        else:
            slots = list(step.slots)
            k, v = k[slots, :longest], v[slots, :longest]
        return Square(k, v, "memory", past, lengths, own=False)

    def advance(self, step: Step) -> None:
        """Count this call's tokens as held; once a call, after the network returned."""
        for slot, past, n in zip(step.slots, step.past, step.rows.lengths, strict=True):
            self.length[slot] = past + n

    def start(self, path: str, slots: Sequence[int], k: Tensor, v: Tensor) -> None:
        """Put keys and values [P, Hkv, Dh] at the beginning of empty rows (prefix tuning)."""
        if path not in self.kept:
            shape = (self.rows, self.capacity)
            self.kept[path] = (k.new_zeros(*shape, *k.shape[1:]), v.new_zeros(*shape, *v.shape[1:]))
        for kept, given in zip(self.kept[path], (k, v), strict=True):
            kept[list(slots), : len(given)] = given
        for slot in slots:
            self.length[slot] = len(k)

    def copy(self, source: int, targets: Sequence[int]) -> None:
        """Let rows begin with what row `source` holds (a prompt that they share is computed once)."""
        held = self.length[source]
        for pair in self.kept.values():
            for tensor in pair:
                tensor[list(targets), :held] = tensor[source, :held]
        for pair in self.memories.values():
            for tensor in pair:
                tensor[list(targets)] = tensor[source].clone()
        for slot in targets:
            self.length[slot] = held
            self.memory_length[slot] = self.memory_length[source]

    def reorder(self, order: Sequence[int]) -> None:
        """Row i becomes what row order[i] was (beams)."""
        for held in (self.kept, self.memories):
            for name, (k, v) in held.items():
                index = torch.tensor(order, device=k.device)
                held[name] = (k.index_select(0, index), v.index_select(0, index))
        self.length = [self.length[i] for i in order]
        self.memory_length = [self.memory_length[i] for i in order]

    def move(self, source: int, target: int) -> None:
        """Row `target` becomes what row `source` was, which is then empty (live rows stay side by side)."""
        self.copy(source, [target])
        self.free(source)

    def grow(self, capacity: int) -> None:
        """Make room for more keys in every row."""
        for name, pair in self.kept.items():
            grown = [t.new_zeros(self.rows, capacity, *t.shape[2:]) for t in pair]
            for new, old in zip(grown, pair, strict=True):
                new[:, : self.capacity] = old
            self.kept[name] = (grown[0], grown[1])
        self.capacity = max(capacity, self.capacity)

    def rollback(self, row: int, n: int) -> None:
        """Forget the last n keys of a row."""
        if not 0 <= n <= self.length[row]:
            raise ValueError(f"row {row} holds {self.length[row]} keys; cannot take back {n}")
        self.length[row] -= n

    def free(self, row: int) -> None:
        """Empty a row for the next one to join."""
        self.length[row] = self.memory_length[row] = 0
