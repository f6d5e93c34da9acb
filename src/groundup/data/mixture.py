"""Weighted mixtures of files: at every row, chance says which file gives the next one; the same seed, the same rows.

    weights 3 and 1, seed 0      a1 a2 b1 a3 a4 a5 b2 a6 ...
    place                        0  1  2  3  4  5  6  7         where to go on: the number of rows taken

A file that ends begins again, in another order (L. Gao et al., "The Pile", 2020, calls its turns epochs). A place can be
continued at any time: which file each row comes from, and each file's order, depend on the seed alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from groundup.core.errors import UsageError
from groundup.data.encode import messages_of
from groundup.data.formats import Record
from groundup.data.rows import Item, Stream
from groundup.data.writing import writing

BLOCK = 4096  # draws made at once
CHATS = ("prompt-completion", "alpaca", "messages", "sharegpt")


class Taken(NamedTuple):
    """A row of a mixture: which source it is from, in which turn through it (from 0), and the row itself."""

    source: str
    turn: int
    item: Item


class Mixture:
    """The rows of several sources, mixed by weight (relative shares of rows).

    `shuffle` gives each source an order drawn by the seed, new in each turn, and holds its rows in memory; without it
    a source is read as it stands, streamed. Raises UsageError for weights that are none and for an empty source.
    """

    def __init__(
        self,
        weights: Mapping[str | Path, float],
        *,
        seed: int = 0,
        shuffle: bool = True,
        part: str = "train",
    ) -> None:
        if not weights:
            raise UsageError("A mixture needs a file. Give each with its weight: a.jsonl=0.7")
        for source, weight in weights.items():
            if not (weight > 0 and math.isfinite(weight)):
                raise UsageError(f"The weight of {source} is {weight:g}. Give a number above 0, or leave the file out.")
        if not 0 <= seed < 2**32:
            raise UsageError(f"The seed is {seed}. Give one from 0 to {2**32 - 1}.")
        self.names = [str(source) for source in weights]
        shares = np.asarray(list(weights.values()), dtype=np.float64)
        self._edges = np.cumsum(shares / shares.sum())
        self._seed, self._shuffle = seed, shuffle
        self._streams = [Stream(source, part=part) for source in weights]
        self._held: dict[int, list[Item]] = {}

    def after(self, place: int = 0) -> Iterator[Taken]:
        """Rows without end, from this place on (0: the first one)."""
        if place < 0:
            raise UsageError(f"The place is {place}. It is a number of rows, 0 or more.")
        draws = self._draws()
        before = np.bincount(np.fromiter(islice(draws, place), np.int64, place), minlength=len(self.names))
        sources = [self._rows(number, int(count)) for number, count in enumerate(before)]
        for number in draws:
            yield next(sources[number])

    def _draws(self) -> Iterator[int]:
        block = 0
        while True:  # RandomState's stream is frozen by NumPy for good
            drawn = np.random.RandomState([self._seed, block]).random_sample(BLOCK)
            yield from np.minimum(np.searchsorted(self._edges, drawn, side="right"), len(self.names) - 1).tolist()
            block += 1

    def _rows(self, number: int, skip: int) -> Iterator[Taken]:
        name, turn = self.names[number], 0
        while True:
            turns = self._shuffled(number, turn) if self._shuffle else self._streams[number].good()
            for item in turns:
                if skip:
                    skip -= 1
                else:
                    yield Taken(name, turn, item)
            turn += 1

    def _shuffled(self, number: int, turn: int) -> Iterator[Item]:
        if number not in self._held:
            self._held[number] = list(self._streams[number].good())
        rows = self._held[number]
        order = np.random.RandomState([self._seed, number, turn, 1]).permutation(len(rows))
        return (rows[at] for at in order.tolist())


@dataclass(frozen=True)
class Mixed:
    """What was taken: rows in all and of each source, how many turns each went through, and the place to go on from."""

    rows: int
    place: int
    taken: dict[str, int]
    turns: dict[str, float]
    kind: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return self.__dict__ | {}

    def text(self) -> str:
        """A few lines for a terminal."""
        lines = [f"{self.rows} rows, {self.kind}; go on with --after {self.place}"]
        for name, count in self.taken.items():
            share = 100 * count / max(1, self.rows)
            lines.append(f"{name}: {count} rows ({share:.1f} %), in its turn {self.turns[name]:g}")
        return "\n".join(lines)


def mix(
    weights: Mapping[str | Path, float],
    out: str | Path | None = None,
    *,
    rows: int | None = None,
    after: int = 0,
    seed: int = 0,
    shuffle: bool = True,
    meta: bool = False,
    part: str = "train",
    on_progress: Callable[[int, int | None], None] | None = None,
) -> Mixed:
    """Write `rows` rows of a mixture to `out`, from the place `after` on. Without `rows` it ends where a file would
    begin again.

    Sources of different kinds of chat are all written as messages. `meta` adds {"meta": {"pile_set_name": SOURCE}}, as
    the Pile has it.
    """
    if rows is not None and rows < 1:
        raise UsageError(f"A mixture of {rows} rows is none. Give 1 or more.")
    mixture = Mixture(weights, seed=seed, shuffle=shuffle, part=part)
    kinds = _kinds(weights, part)
    taken, turns = dict.fromkeys(mixture.names, 0), dict.fromkeys(mixture.names, 0)
    count = 0
    with writing(out) as write:
        for source, turn, item in islice(mixture.after(after), rows):
            if rows is None and turn:
                break
            taken[source], turns[source] = taken[source] + 1, turn + 1
            record = item.record if len(kinds) == 1 else _messages(item)
            write(record | {"meta": {"pile_set_name": source}} if meta else record)
            count += 1
            if on_progress is not None and count % 256 == 0:
                on_progress(count, rows)
        if not count:
            raise UsageError(f"Nothing is left from place {after} on: a file would begin again. Say how many rows.")
    kind = next(iter(kinds)) if len(kinds) == 1 else "messages"
    return Mixed(count, after + count, taken, {name: float(turn) for name, turn in turns.items()}, kind)


def _kinds(weights: Mapping[str | Path, float], part: str) -> set[str]:
    first = {source: next(Stream(source, part=part).good()).kind for source in weights}
    kinds = set(first.values())
    if len(kinds) > 1 and not kinds <= set(CHATS):
        said = ", ".join(f"{source}: {kind}" for source, kind in first.items())
        raise UsageError(
            f"Rows of these kinds cannot stand in one file ({said}). Mix texts with texts, chats with chats."
        )
    return kinds


def _messages(item: Item) -> Record:
    tools: Sequence[Any] = item.row.get("tools", ())
    return {"messages": messages_of(item.row), **({"tools": tools} if tools else {})}
