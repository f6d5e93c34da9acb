"""Rows of training data, in any usual format, as one of three shapes.

What is read: the kinds of `kinds.py`, recognised by their keys, in a json, jsonl, csv, tsv, parquet or txt file (also
packed: .jsonl.gz), a folder of these, a data starter by its name, or a list of dicts. What comes out: `{"text"}`, `{"prompt", "completion"}` (two texts), or, for every kind of
chat, `{"messages"}` with the roles system, user, assistant and tool (+ `"tools"`, and `"given"`: how many leading
messages are the prompt, where a row says so). `null` and empty CSV cells count as missing. A .txt file holds one text
a paragraph (blank lines divide).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from groundup.core.errors import UsageError
from groundup.data import formats, listing
from groundup.data.formats import Found, Record
from groundup.data.kinds import READERS, Row, recognise, show
from groundup.data.packed import ending
from groundup.data.problems import BadRow, Problem, printable


@dataclass(frozen=True)
class Dataset:
    """Rows and where each came from: `lines[i]` is the line (in a parquet file or a list: the row) of `rows[i]`."""

    rows: list[Row]
    kind: str
    path: Path | None = None
    lines: list[int] = field(default_factory=list)
    ignored: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]

    @property
    def name(self) -> str:
        return self.path.name if self.path else "rows"

    @property
    def unit(self) -> str:
        """What `lines` counts: "line" or "row"."""
        return formats.unit(self.path) if self.path else "row"

    def where(self, index: int) -> str:
        """The row's place in words: "train.jsonl line 12"."""
        return f"{self.name} {self.unit} {self.lines[index]}"

    def take(self, indices: Iterable[int]) -> Dataset:
        """The rows of these indices, in this order."""
        chosen = list(indices)
        return replace(self, rows=[self.rows[i] for i in chosen], lines=[self.lines[i] for i in chosen])

    def __str__(self) -> str:
        """One line to announce: "train.jsonl: 500 rows, messages"."""
        how = " (one a paragraph)" if self.path and ending(self.path) == ".txt" else ""
        rest = f"; not used: {', '.join(self.ignored)}" if self.ignored else ""
        return printable(f"{self.name}: {len(self)} row{'' if len(self) == 1 else 's'}, {self.kind}{how}{rest}")


class Item(NamedTuple):
    """A row with its place (in words, and the number of its line) and the record that it was read from."""

    place: str
    line: int
    kind: str
    row: Row
    record: Record


class Stream:
    """The rows of a source one by one, as `Item` or, in the place of a bad one, `Problem`; again each time it is asked.

    The source is a file, a folder (its `part`), a starter's name or a list of dicts. Nothing is kept in memory.
    `title` is what the source was called; `kind` and `ignored` (keys that nothing uses) are known when it was gone
    through.
    """

    def __init__(self, source: str | Path | Sequence[Record], *, part: str = "train", answers: bool = True) -> None:
        self.path = formats.find(listing.locate(source, part), part) if isinstance(source, str | Path) else None
        self._source, self._answers = source, answers
        self.title = str(source) if self.path else "rows"
        self.name, self.unit = (self.path.name, formats.unit(self.path)) if self.path else ("rows", "row")
        self.kind, self.ignored = "", dict[str, None]()

    def __iter__(self) -> Iterator[Item | Problem]:
        for item in formats.records(self.path) if self.path else _listed(self._source):
            yield item if isinstance(item, Problem) else self._item(*item)

    def good(self) -> Iterator[Item]:
        """The rows; the first bad one raises `UsageError`, and so does a source without rows."""
        empty = True
        for item in self:
            if isinstance(item, Problem):
                raise UsageError(f"{item} (groundup data check names every bad row)")
            empty = False
            yield item
        if empty:
            raise UsageError(f"{self.name} holds no rows. Is it the right file?")

    def _item(self, line: int, record: Record) -> Item | Problem:
        given = {key: value for key, value in record.items() if value is not None}
        try:
            kind = recognise(given)
            self.kind = self.kind or kind
            if kind != self.kind:
                fix = "Keep one kind in a file."
                raise BadRow("", f"is a row of kind {kind}, the rows before are {self.kind}", fix)
            row = READERS[kind](given, self._answers, self.ignored)
        except BadRow as bad:
            return bad.at(self.name, line, self.unit)
        return Item(f"{self.name} {self.unit} {line}", line, kind, row, record)


def read(source: str | Path | Sequence[Record], *, part: str = "train", answers: bool = True) -> Dataset:
    """All rows of a file, of the `part` of a folder ("train", "validation", "test"), or of a list of dicts.

    `answers=False` also takes rows that only ask: a prompt without completion, messages that end with the user.
    Raises `UsageError` at the first bad row, with file, line, field and what to do, and says how many more there are.
    """
    dataset, problems = scan(source, part=part, answers=answers)
    if problems:
        more = f" ({len(problems) - 1} more: groundup data check {dataset.path or 'FILE'})" if problems[1:] else ""
        raise UsageError(f"{problems[0]}{more}")
    return dataset


def scan(
    source: str | Path | Sequence[Record], *, part: str = "train", answers: bool = True
) -> tuple[Dataset, list[Problem]]:
    """As `read`, but with all problems instead of an error, and the good rows beside them."""
    stream = Stream(source, part=part, answers=answers)
    rows, lines, problems = list[Row](), list[int](), list[Problem]()
    for item in stream:
        if isinstance(item, Problem):
            problems.append(item)
        else:
            rows.append(item.row)
            lines.append(item.line)
    if not rows and not problems:
        problems.append(Problem(stream.name, 0, "", "holds no rows", "Is it the right file?", stream.unit))
    return Dataset(rows, stream.kind or "unknown", stream.path, lines, tuple(stream.ignored)), problems


def split(
    dataset: Dataset, *, fraction: float | None = None, count: int | None = None, seed: int = 0
) -> tuple[Dataset, Dataset]:
    """(training, validation) rows, drawn by a hash of what a row says, so that equal rows fall on the same side.

    Rows that differ only in case and white space count as equal; so validation may hold a few more than asked, never
    fewer. The same rows and seed give the same parts, in whatever order the rows stand. Raises `UsageError`.
    """
    if (fraction is None) == (count is None):
        raise UsageError("Say how many rows to split off, either as a fraction or as a count.")
    if fraction is not None and not 0 < fraction < 1:
        raise UsageError(f"The fraction to split off is {fraction:g}; it lies between 0 and 1.")
    wanted = max(1, round(fraction * len(dataset))) if fraction is not None else count or 0
    hashes = [fingerprint(row, seed) for row in dataset.rows]
    side, taken = set[str](), 0
    for digest in sorted(hashes):
        if taken >= wanted and digest not in side:
            break
        side.add(digest)
        taken += 1
    if not 0 < taken < len(dataset):
        raise UsageError(
            f"{dataset.name} has {len(dataset)} rows, {len(set(hashes))} of them distinct; {wanted} for validation "
            "leave nothing on one side. Ask for fewer, or give a validation file."
        )
    validation = [i for i, digest in enumerate(hashes) if digest in side]
    training = [i for i, digest in enumerate(hashes) if digest not in side]
    return dataset.take(training), dataset.take(validation)


def fingerprint(row: Row, seed: int = 0) -> str:
    """A hash of what the row says, blind to case and white space."""
    content = json.dumps(_folded(row), sort_keys=True, default=str)
    return hashlib.sha256(f"{seed}\n{content}".encode()).hexdigest()


def _folded(value: object) -> object:
    if isinstance(value, str):
        return " ".join(value.casefold().split())
    if isinstance(value, dict):
        return {key: _folded(inner) for key, inner in value.items()}
    return [_folded(inner) for inner in value] if isinstance(value, list | tuple) else value


def _listed(source: Any) -> Iterable[Found]:
    for number, record in enumerate(source, start=1):
        if isinstance(record, dict):
            yield number, record
        else:
            yield Problem("rows", number, "", f"is {show(record)}, no dict", 'Write {"field": ...}.', "row")
