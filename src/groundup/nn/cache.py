"""The kinds of cache: one that holds nothing, one whose rows share their beginning, and one that grows row by row.

    Fresh    training and single calls: every key belongs to this call
    Shared   row 0 is what all other rows begin with; it is computed once and they see it as their own past
    Slots    generation: each row of the cache has its own length

All three answer `write` with `Square`s (`keys.py`): keys laid side by side, what is real of them, and where they stand. A
core that keeps a state of one size in place of keys (retention) goes through `recur`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from groundup.core.errors import UsageError
from groundup.nn.keys import Square
from groundup.nn.step import Keys, Recurrence, Rows, Step


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

    def recur(self, path: str, run: Recurrence, given: Sequence[Tensor], step: Step) -> Tensor:
        rows = step.rows
        return rows.unpad(run([rows.pad(t) for t in given], None if rows.even else rows.lengths, None)[0])

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

    def recur(self, path: str, run: Recurrence, given: Sequence[Tensor], step: Step) -> Tensor:
        first, others = step.fact("shared", lambda: _apart_from_first(step.rows))
        parts = [t.split((first.total, others.total)) for t in given]
        before, state = run([first.pad(t) for t, _ in parts], None, None)
        state = state.expand(len(others), *state.shape[1:])
        after, _ = run([others.pad(t) for _, t in parts], None if others.even else others.lengths, state)
        return torch.cat((first.unpad(before), others.unpad(after)))


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
        one, rest = self._steps(step)
        mine, theirs = q.split((self.first.total, self.others.total))
        shared = self.before.attend(mine, one, path=f"{path}:shared", **how)
        return torch.cat((shared, self.after.attend(theirs, rest, path=path, **how)))

    def over(self, run: Callable[[Tensor, tuple[int, ...]], Tensor], step: Step) -> Float[Tensor, "T ..."]:
        one, rest = self._steps(step)
        return torch.cat((self.before.over(run, one), self.after.over(run, rest)))

    def _steps(self, step: Step) -> tuple[Step, Step]:
        size, facts, taps = self.first.total, step.facts, step.taps
        one = Step(self.first, step.positions[:size], step.cache, (0,), self.before.past, facts=facts, taps=taps)
        rest = Step(self.others, step.positions[size:], step.cache, (0,), self.after.past, facts=facts, taps=taps)
        return one, rest


class Slots:
    """Room for `rows` rows of up to `capacity` keys each, every row with its own length.

    Tensors are made when a path is first written, in the format of what is written:  k, v [rows, capacity, Hkv, Dh]. A
    recurrent core's state [rows, ...] has one size however long a row is; a call's new ones wait beside the old until
    `advance`, so that repeating the call changes nothing.
    """

    def __init__(self, rows: int, capacity: int):
        self.rows, self.capacity = rows, capacity
        self.length = [0] * rows
        self.kept: dict[str, tuple[Tensor, Tensor]] = {}
        self.memories: dict[str, tuple[Tensor, Tensor]] = {}
        self.memory_length: list[int] = [0] * rows
        self.states: dict[str, Tensor] = {}
        self.coming: dict[str, Tensor] = {}

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

    def recur(self, path: str, run: Recurrence, given: Sequence[Tensor], step: Step) -> Tensor:
        rows, state = step.rows, None
        if path in self.states and any(step.past):
            state = self.states[path][list(step.slots)]
            for row, past in enumerate(step.past):
                if not past:  # a row that begins with this call
                    state[row] = 0.0
        out, self.coming[path] = run([rows.pad(t) for t in given], None if rows.even else rows.lengths, state)
        return rows.unpad(out)

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
        for path, state in self.coming.items():
            if path not in self.states:
                self.states[path] = state.new_zeros(self.rows, *state.shape[1:])
            self.states[path][list(step.slots)] = state
        self.coming = {}

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
        for state in self.states.values():
            state[list(targets)] = state[source].clone()
        for slot in targets:
            self.length[slot] = held
            self.memory_length[slot] = self.memory_length[source]

    def reorder(self, order: Sequence[int]) -> None:
        """Row i becomes what row order[i] was (beams)."""
        for held in (self.kept, self.memories):
            for name, (k, v) in held.items():
                index = torch.tensor(order, device=k.device)
                held[name] = (k.index_select(0, index), v.index_select(0, index))
        for name, state in self.states.items():
            self.states[name] = state.index_select(0, torch.tensor(order, device=state.device))
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
        """Forget the last n keys of a row. UsageError where states stand in for keys: what is in them stays in them."""
        if n and self.states:
            raise UsageError("a recurrent model cannot take tokens back: leave out what guesses ahead (draft, lookup)")
        if not 0 <= n <= self.length[row]:
            raise ValueError(f"row {row} holds {self.length[row]} keys; cannot take back {n}")
        self.length[row] -= n

    def free(self, row: int) -> None:
        """Empty a row for the next one to join."""
        self.length[row] = self.memory_length[row] = 0
