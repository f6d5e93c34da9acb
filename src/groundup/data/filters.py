"""Rows that go, and why: by the rules of C4, by a score, or because they cannot be read.

A filter reads the rows in their order and writes those that stay; of each one that goes it tells the place, the rule and
the beginning of its text, so that nothing disappears unseen.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from groundup.core.errors import UsageError
from groundup.data.c4 import C4
from groundup.data.formats import Record
from groundup.data.problems import Problem, printable
from groundup.data.rows import Item, Stream
from groundup.data.scores import Scorer
from groundup.data.texts import said
from groundup.data.writing import free, writing

CHUNK = 64  # rows that a scorer sees at once: enough for a model to read side by side
EXCERPT = 60  # characters

Tell = Callable[[int], None]


@dataclass(frozen=True)
class Removal:
    """A row that goes: where it stood, the rule, what the rule saw there, and how its text begins."""

    row: str
    rule: str
    why: str
    begins: str

    def __str__(self) -> str:
        return f"{self.row}: {self.rule}{f' ({self.why})' if self.why else ''}: {self.begins}"


@dataclass(frozen=True)
class Filtered:
    """What a filter did: rows read, kept and changed, the rows that each rule removed, and lines of text that went."""

    file: str
    filter: str
    rows: int
    kept: int
    changed: int = 0
    lines: dict[str, int] = field(default_factory=dict)
    removals: list[Removal] = field(default_factory=list)

    @property
    def removed(self) -> dict[str, int]:
        """How many rows each rule removed, the busiest first."""
        return dict(Counter(removal.rule for removal in self.removals).most_common())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "removed": self.removed}

    def text(self, examples: int = 2) -> str:
        """A few lines for a terminal, with at most so many examples of each rule."""
        changed = f", {self.changed} of them without some lines" if self.changed else ""
        lines = [f"{self.file}: {self.rows} rows, {self.kept} kept by {self.filter}{changed}"]
        for rule, count in self.removed.items():
            lines.append(f"{count} rows removed: {rule}")
            found = (removal for removal in self.removals if removal.rule == rule)
            lines += [printable(f"  {removal}") for removal in islice(found, examples)]
        lines += [f"{count} {_unit(rule)} removed: {rule}" for rule, count in self.lines.items()]
        return "\n".join(lines)


def _unit(rule: str) -> str:
    return "sentences" if rule == "repeated" else "lines"


def by_rules(
    source: str | Path | Sequence[Record],
    out: str | Path | None = None,
    *,
    rules: C4 | None = None,
    part: str = "train",
    on_progress: Tell | None = None,
) -> Filtered:
    """Clean rows of text by the rules of C4; what is left is written to `out` as {"text"} with the row's other fields.

    Raises UsageError for rows that are no texts: the rules are about pages.
    """
    rules = rules or C4()
    stream, removals = Stream(source, part=part), list[Removal]()
    rows = changed = 0
    with writing(out) as write:
        for item in _told(stream, on_progress):
            rows += 1
            if isinstance(item, Problem):
                removals.append(_unreadable(item))
                continue
            if item.kind != "text":
                raise UsageError(f"{item.place} is a row of kind {item.kind}; the rules of C4 are for rows of text.")
            text = item.row["text"]
            left, rule = rules.clean(text)
            if rule:
                removals.append(Removal(item.place, rule, "", _excerpt(text)))
                continue
            changed += left != text
            write({**item.record, "text": left})
        if not rows:
            raise UsageError(f"{stream.name} holds no rows. Is it the right file?")
    return Filtered(
        stream.title,
        "the rules of C4",
        rows,
        rows - len(removals),
        changed,
        dict(rules.lines.most_common()),
        removals,
    )


def by_score(
    source: str | Path | Sequence[Record],
    out: str | Path | None = None,
    *,
    scorer: Scorer,
    least: float | None = None,
    most: float | None = None,
    best: float | None = None,
    part: str = "train",
    on_progress: Tell | None = None,
) -> Filtered:
    """Keep rows whose score is at least `least` and at most `most`, or the `best` share of them (0.2: a fifth).

    Of rows that score alike the earlier is the better one. The rows are read twice: for the scores, and to write.
    """
    if (best is None) == (least is None and most is None):
        raise UsageError("Say which rows to keep: from a least to a most score, or the best share of them.")
    if best is not None and not 0 < best < 1:
        raise UsageError(f"The best share is {best:g}; it lies between 0 and 1.")
    if out is not None:
        free(Path(out))  # before the scores are reckoned
    stream = Stream(source, part=part)
    scores, removals = list[float](), list[Removal]()
    for chunk in _chunks(_told(stream, on_progress)):
        scores += scorer(chunk)
    if not scores:
        raise UsageError(f"{stream.name} holds no good rows. See: groundup data check {stream.title}")
    chosen = _best(scores, best, scorer.low) if best is not None else None
    rows = number = 0
    with writing(out) as write:
        for item in stream:
            rows += 1
            if isinstance(item, Problem):
                removals.append(_unreadable(item))
                continue
            score = scores[number]
            stays = number in chosen if chosen is not None else _between(score, least, most)
            number += 1
            if stays:
                write(item.record)
            else:
                removals.append(Removal(item.place, scorer.name, f"{score:.4g}", _excerpt(said(item.row))))
    asked = f"the best {best:g} of {scorer.name}" if best is not None else f"{scorer.name} {_range(least, most)}"
    return Filtered(stream.title, asked, rows, rows - len(removals), removals=removals)


def _best(scores: Sequence[float], share: float, low: bool) -> set[int]:
    order = sorted(range(len(scores)), key=lambda number: (scores[number] if low else -scores[number], number))
    return set(order[: max(1, round(share * len(scores)))])


def _between(score: float, least: float | None, most: float | None) -> bool:
    return (-math.inf if least is None else least) <= score <= (math.inf if most is None else most)


def _range(least: float | None, most: float | None) -> str:
    parts = ("" if least is None else f"from {least:g}", "" if most is None else f"to {most:g}")
    return " ".join(part for part in parts if part)


def _told(stream: Stream, tell: Tell | None) -> Iterator[Item | Problem]:
    for number, item in enumerate(stream, start=1):
        yield item
        if tell is not None and number % CHUNK == 0:
            tell(number)


def _chunks(items: Iterator[Item | Problem]) -> Iterator[list[Item]]:
    good = (item for item in items if isinstance(item, Item))
    while chunk := list(islice(good, CHUNK)):
        yield chunk


def _unreadable(problem: Problem) -> Removal:
    where = f" {problem.unit} {problem.line}" if problem.line else ""
    return Removal(f"{problem.file}{where}", "unreadable", problem.field, problem.message)


def _excerpt(text: str) -> str:
    short = " ".join(text.split())
    return short if len(short) <= EXCERPT else short[: EXCERPT - 3] + "..."
