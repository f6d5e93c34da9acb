"""Leakage: rows of the training part that give away rows of the test part.

A training row leaks a test row when it says or asks the same, when it holds so much of it word by word (runs of 13 words
in T. Brown et al., "Language Models are Few-Shot Learners", appendix C), or when the two are nearly the same.
Runs that many test rows share are the wording of the task, not of a row, and do not count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from groundup.core.errors import UsageError
from groundup.data.duplicates import Near
from groundup.data.formats import Record
from groundup.data.problems import printable
from groundup.data.rows import Item, Stream
from groundup.data.texts import answered, asked, fold, runs, said, words
from groundup.data.writing import writing

COMMON = 10  # test rows: a run that stands in more of them is wording


@dataclass(frozen=True)
class Leak:
    """A training row and the test row that it gives away. `share`: of the test row's runs, or the likeness."""

    train: str
    test: str
    how: str
    share: float

    def __str__(self) -> str:
        what = {
            "exact": "says the same as",
            "prompt": "asks the same as",
            "overlap": f"holds {100 * self.share:.0f} % of",
            "near": f"is {self.share:.2f} like",
        }
        return f"{self.train} {what[self.how]} {self.test}"


@dataclass(frozen=True)
class Leakage:
    """The leaks between two files: one for each training row that leaks, and the test rows that are given away."""

    train: str
    test: str
    train_rows: int
    test_rows: int
    leaks: list[Leak] = field(default_factory=list)

    @property
    def leaked(self) -> int:
        """How many test rows are given away."""
        return len({leak.test for leak in self.leaks})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        counts = Counter(leak.how for leak in self.leaks)
        return {**asdict(self), "leaked": self.leaked, "by": dict(counts)}

    def text(self, most: int = 10) -> str:
        """A few lines for a terminal, with at most so many examples."""
        head = f"{self.train}: {len(self.leaks)} of {self.train_rows} rows give away {self.leaked} of {self.test_rows}"
        lines = [f"{head} rows of {self.test}"]
        counts = Counter(leak.how for leak in self.leaks)
        lines += [f"{count} {_SAID[how]}" for how, count in counts.most_common()]
        lines += [printable(f"  {leak}") for leak in self.leaks[:most]]
        more = len(self.leaks) - most
        return "\n".join(lines + ([f"  ... and {more} more (--json names all)"] if more > 0 else []))


_SAID = {
    "exact": "say the same",
    "prompt": "ask the same, with another answer",
    "overlap": "hold much of a test row word by word",
    "near": "are nearly the same",
}


def decontaminate(
    train: str | Path | Sequence[Record],
    test: str | Path | Sequence[Record],
    out: str | Path | None = None,
    *,
    run: int = 13,
    share: float = 0.5,
    near: float | None = 0.8,
    on_progress: Callable[[int], None] | None = None,
) -> Leakage:
    """Find the rows of `train` that leak rows of `test`, and write the others to `out`.

    run    words that must stand together to count as overlap; a shorter test row is one run as a whole, from 5 words on
    share  the least share of a test row's runs that a training row must hold
    near   the likeness from which rows are nearly the same (see `duplicates`); None leaves that out

    The test rows are held in memory, the training rows are streamed. A starter's name stands for its parts of that name.
    """
    if run < 1 or not 0 < share <= 1:
        raise UsageError(f"Overlap is runs of 1 word or more and a share above 0 up to 1, not {run} and {share:g}.")
    held = Stream(test, part="test")
    index = _Index(list(held.good()), run, share, near)
    stream, leaks, rows = Stream(train, part="train"), list[Leak](), 0
    with writing(out) as write:
        for item in stream.good():
            rows += 1
            leak = index.find(item)
            if leak is None:
                write(item.record)
            else:
                leaks.append(leak)
            if on_progress is not None and rows % 256 == 0:
                on_progress(rows)
    return Leakage(stream.title, held.title, rows, len(index.items), leaks)


class _Index:
    """The test rows, found by what they say, what they ask, their runs of words, and their likeness."""

    def __init__(self, items: Sequence[Item], run: int, share: float, near: float | None) -> None:
        self.items, self.run, self.share = items, run, share
        self.said = {fold(said(item.row)): item.place for item in reversed(items)}
        self.asked = {fold(asked(item.row)): item.place for item in reversed(items)}
        own = [_runs(said(item.row), run) for item in items]
        spread = Counter(one for each in own for one in each)
        most = min(COMMON, max(1, len(items) // 2))
        self.runs = [{one for one in each if spread[one] <= most} for each in own]
        self.holders: dict[tuple[str, ...], list[int]] = {}
        for at, each in enumerate(self.runs):
            for one in each:
                self.holders.setdefault(one, []).append(at)
        self.lengths = sorted({len(one) for one in self.holders})
        self.near = Near(near) if near is not None else None
        if self.near is not None:
            for text, place in self.said.items():
                self.near.add(place, text)

    def find(self, item: Item) -> Leak | None:
        text = fold(said(item.row))
        if place := self.said.get(text):
            return Leak(item.place, place, "exact", 1.0)
        if answered(item.row) and (place := self.asked.get(fold(asked(item.row)))):
            return Leak(item.place, place, "prompt", 1.0)
        known = words(text)
        here = {one for length in self.lengths if length <= len(known) for one in runs(known, length)}
        shared = Counter(at for one in here & self.holders.keys() for at in self.holders[one])
        parts = [(count / len(self.runs[at]), -at) for at, count in shared.items()]
        if parts and max(parts)[0] >= self.share:
            part, at = max(parts)
            return Leak(item.place, self.items[-at].place, "overlap", round(part, 4))
        if self.near is not None and (found := self.near.find(text)):
            return Leak(item.place, found.key, "near", round(found.likeness, 4))
        return None


def _runs(text: str, length: int) -> set[tuple[str, ...]]:
    found = words(text)
    return runs(found, length) if len(found) >= min(5, length) else set()
