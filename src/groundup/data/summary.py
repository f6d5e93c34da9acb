"""What a file of rows holds: how many of which kind, how long they are, which labels, what stands there twice."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from groundup.core.errors import UsageError
from groundup.data.encode import encode
from groundup.data.formats import Record
from groundup.data.problems import Problem, printable
from groundup.data.rows import Stream
from groundup.data.texts import answered, asked, fold, label, said
from groundup.inputs.tokenizer import Tokenizer

MOST_LABELS = 100  # more different ones are no classes

ODD = {  # letters that are seldom meant, as a pattern
    "a carriage return inside": re.compile(r"\r(?!\n)"),
    "control characters": re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"),
    "HTML entities": re.compile(r"&(?:#\d{1,7}|#x[0-9a-fA-F]{1,6}|amp|lt|gt|quot|nbsp);"),
    "the sign of a letter that was lost": re.compile("\ufffd"),
}


def odd(text: str) -> list[str]:
    """What is odd about the letters of a text, in words."""
    return [what for what, pattern in ODD.items() if pattern.search(text)]


@dataclass(frozen=True)
class Spread:
    """Lengths of the rows."""

    shortest: int
    median: float
    longest: int
    total: int

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Spread:
        """Of one length or more."""
        return cls(min(lengths), float(median(lengths)), max(lengths), sum(lengths))

    def __str__(self) -> str:
        return f"{self.shortest:,} to {self.longest:,}, median {self.median:g}; {self.total:,} in all"


@dataclass(frozen=True)
class Stats:
    """What a file holds.

    repeated      rows whose text (for rows with an answer: what they ask) stands before, letter by letter ...
    folded        ... and but for case and white space
    two_labels    texts that stand with two labels or more, each with its places; `two_labels_folded` but for the same
    odd           rows with letters that are seldom meant
    """

    file: str
    rows: int
    bad: int
    kinds: dict[str, int]
    characters: Spread
    words: Spread
    answer_words: Spread | None
    tokens: Spread | None
    labels: dict[str, int]
    repeated: int
    folded: int
    two_labels: list[list[str]]
    two_labels_folded: int
    odd: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def text(self) -> str:
        """A few lines for a terminal."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.items())
        lines = [f"{self.file}: {self.rows} rows ({kinds})"]
        if self.bad:
            lines.append(f"{self.bad} bad rows more: groundup data check {self.file}")
        measured = {"characters": self.characters, "words": self.words, "words an answer": self.answer_words}
        lines += [f"{name}: {spread}" for name, spread in {**measured, "tokens": self.tokens}.items() if spread]
        if self.labels:
            shown = ", ".join(f"{name} {count}" for name, count in list(self.labels.items())[:20])
            more = f", ... {len(self.labels) - 20} more" if len(self.labels) > 20 else ""
            lines.append(f"labels: {shown}{more}")
        if self.folded:
            lines.append(f"{self.repeated} rows repeat a text, {self.folded} but for case and white space")
        if self.two_labels_folded:
            example = f", for example {', '.join(self.two_labels[0][:3])}" if self.two_labels else ""
            but = f" ({self.two_labels_folded} but for case and white space)"
            lines.append(f"{len(self.two_labels)} texts have two labels{but}{example}")
        lines += [f"{count} rows hold {what}" for what, count in self.odd.items()]
        return printable_lines(lines)


def printable_lines(lines: Sequence[str]) -> str:
    """Lines that are safe for any terminal."""
    return "\n".join(printable(line) for line in lines)


def stats(
    source: str | Path | Sequence[Record],
    tokenizer: Tokenizer | None = None,
    *,
    label_field: str | None = None,
    part: str = "train",
    on_progress: Callable[[int], None] | None = None,
) -> Stats:
    """Count a file in one pass; with a tokenizer also its tokens. Bad rows are counted and left out.

    Labels are the values of `label_field` (in the row, or in the JSON object that it answers), or else "label", or else
    short answers, where these are at most a hundred. Raises UsageError for a file without one good row.
    """
    stream, seen = Stream(source, part=part), _Seen()
    kinds, strange = Counter[str](), Counter[str]()
    lengths = {name: array("q") for name in ("characters", "words", "answer", "tokens")}
    bad = rows = 0
    for item in stream:
        if isinstance(item, Problem):
            bad += 1
            continue
        rows += 1
        kinds[item.kind] += 1
        text, answer = said(item.row), answered(item.row)
        strange.update(odd(text))
        lengths["characters"].append(len(text))
        lengths["words"].append(len(text.split()))
        if answer:
            lengths["answer"].append(len(answer.split()))
        if tokenizer is not None:
            lengths["tokens"].append(len(encode(item.row, tokenizer).ids))
        seen.add(asked(item.row), label(item, label_field), item.place)
        if on_progress is not None and rows % 256 == 0:
            on_progress(rows)
    if not rows:
        raise UsageError(f"{stream.name} holds no good row. See: groundup data check {stream.title}")
    if label_field is not None and not seen.labels:
        raise UsageError(f"No row has the label '{label_field}', in itself or in the JSON that it answers.")
    labels = dict(seen.labels.most_common()) if 1 < len(seen.labels) <= MOST_LABELS else {}
    return Stats(
        file=stream.title,
        rows=rows,
        bad=bad,
        kinds=dict(kinds.most_common()),
        characters=Spread.of(lengths["characters"]),
        words=Spread.of(lengths["words"]),
        answer_words=Spread.of(lengths["answer"]) if lengths["answer"] else None,
        tokens=Spread.of(lengths["tokens"]) if lengths["tokens"] else None,
        labels=labels,
        repeated=rows - len(seen.exact),
        folded=rows - len(seen.folded),
        two_labels=seen.conflicts(seen.exact) if labels else [],
        two_labels_folded=len(seen.conflicts(seen.folded)) if labels else 0,
        odd=dict(strange.most_common()),
    )


class _Seen:
    """Which labels each text stands with, and where it first has each."""

    def __init__(self) -> None:
        self.exact: dict[int, dict[str | None, str]] = {}
        self.folded: dict[int, dict[str | None, str]] = {}
        self.labels = Counter[str]()

    def add(self, text: str, label: str | None, place: str) -> None:
        for table, key in ((self.exact, text), (self.folded, fold(text))):
            # 64 bits of a hash: among ten million texts two fall together once in 400,000 files
            table.setdefault(hash(key), {}).setdefault(label, place)
        if label is not None:
            self.labels[label] += 1

    @staticmethod
    def conflicts(table: dict[int, dict[str | None, str]]) -> list[list[str]]:
        """The places of each text that has two labels or more."""
        found = ([place for name, place in places.items() if name is not None] for places in table.values())
        return [places for places in found if len(places) > 1]
