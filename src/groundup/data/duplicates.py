"""Repeated rows: the same but for case and white space, or nearly the same.

Nearly the same is measured by the Jaccard likeness of two texts' runs of five characters, |A and B| / |A or B|. Which
rows to compare at all is found by MinHash and locality-sensitive hashing (A. Broder, "On the resemblance and containment
of documents", 1997; datasketch), so that a file takes one pass; the likeness itself is then counted, not estimated.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from groundup.core.errors import GroundupError, UsageError
from groundup.data.formats import Record
from groundup.data.problems import printable
from groundup.data.rows import Stream
from groundup.data.texts import answered, chosen, fold
from groundup.data.writing import writing

RUN = 5  # characters: finer than words, so that short texts can be told apart too
PERMUTATIONS = 128
RECALL = (0.1, 0.9)  # a pair that is compared in vain costs little, one that is missed stays in the data


class Like(NamedTuple):
    """A text that was added before, by its key, and how like it is (1: the same runs)."""

    key: str
    likeness: float


class Near:
    """Finds, for a text, the likest of those added before: at least `threshold` like. Texts are given folded."""

    def __init__(self, threshold: float, *, seed: int = 1) -> None:
        if not 0.5 <= threshold < 1:
            raise UsageError(f"The likeness is {threshold:g}. Give one from 0.5 to below 1; 0.8 is usual.")
        try:
            from datasketch import MinHash, MinHashLSH
        except ImportError:
            raise GroundupError("near duplicates need datasketch: pip install 'groundup[data]'") from None
        self.threshold = threshold
        self._empty = MinHash(PERMUTATIONS, seed=seed, hashfunc=zlib.crc32)
        self._index = MinHashLSH(threshold, PERMUTATIONS, weights=RECALL)
        self._texts: dict[str, tuple[int, str]] = {}  # the number says which came first

    def find(self, text: str) -> Like | None:
        """The likest text so far, the earliest of equally like ones; None where none is like enough."""
        return self._best(text, self._sketch(text))

    def add(self, key: str, text: str) -> None:
        """Remember a text under a key of its own."""
        self._keep(key, text, self._sketch(text))

    def find_or_add(self, key: str, text: str) -> Like | None:
        """`find`; where nothing is found the text is added."""
        sketch = self._sketch(text)
        best = self._best(text, sketch)
        if best is None:
            self._keep(key, text, sketch)
        return best

    def _keep(self, key: str, text: str, sketch: Any) -> None:
        self._texts[key] = (len(self._texts), text)
        self._index.insert(key, sketch, check_duplication=False)

    def _best(self, text: str, sketch: Any) -> Like | None:
        found = [(-likeness(text, self._texts[key][1]), self._texts[key][0], key) for key in self._index.query(sketch)]
        if not found:
            return None
        like, _, key = min(found)
        return Like(key, -like) if -like >= self.threshold else None

    def _sketch(self, text: str) -> Any:
        sketch = self._empty.copy()
        sketch.update_batch([run.encode() for run in pieces(text)])
        return sketch


def pieces(text: str) -> set[str]:
    """All runs of five characters; the whole text where it is shorter."""
    return {text[at : at + RUN] for at in range(max(1, len(text) - RUN + 1))}


def likeness(one: str, other: str) -> float:
    """The Jaccard likeness of two texts, 0 to 1."""
    first, second = pieces(one), pieces(other)
    return len(first & second) / len(first | second)


@dataclass(frozen=True)
class Repeat:
    """A row that says what an earlier one says. `how`: "exact" or "near"; `other_answer`: but it answers differently."""

    row: str
    of: str
    how: str
    likeness: float
    other_answer: bool = False

    def __str__(self) -> str:
        like = "says the same as" if self.how == "exact" else f"is {self.likeness:.2f} like"
        return f"{self.row} {like} {self.of}" + (", with another answer" if self.other_answer else "")


@dataclass(frozen=True)
class Deduped:
    """How many rows a file has, how many were kept, and for each other one why not. The first of its like is kept."""

    file: str
    rows: int
    kept: int
    threshold: float | None
    repeats: list[Repeat] = field(default_factory=list)

    def count(self, how: str) -> int:
        return sum(repeat.how == how for repeat in self.repeats)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "exact": self.count("exact"), "near": self.count("near")}

    def text(self, most: int = 10) -> str:
        """A few lines for a terminal, with at most so many examples."""
        near = "" if self.threshold is None else f", {self.count('near')} nearly ({self.threshold:g} like or more)"
        lines = [f"{self.file}: {self.rows} rows, {self.kept} kept", f"{self.count('exact')} repeat another one{near}"]
        if other := sum(repeat.other_answer for repeat in self.repeats):
            lines.append(f"{other} of these answer differently: look at them before they go")
        lines += [printable(f"  {repeat}") for repeat in self.repeats[:most]]
        more = len(self.repeats) - most
        return "\n".join(lines + ([f"  ... and {more} more (--json names all)"] if more > 0 else []))


def dedupe(
    source: str | Path | Sequence[Record],
    out: str | Path | None = None,
    *,
    near: float | None = 0.8,
    by: str | None = None,
    part: str = "train",
    on_progress: Callable[[int], None] | None = None,
) -> Deduped:
    """Leave the first of rows that say the same, and write what is left to `out` (.jsonl, .jsonl.gz).

    near  the likeness from which rows count as the same; None takes those alone that are the same but for case and
          white space
    by    compare this field only (of the record, or "prompt", "completion"), instead of all that a row says

    One pass; the texts of the rows that are kept are held in memory when near duplicates are asked for.
    """
    stream = Stream(source, part=part)
    index = Near(near) if near is not None else None
    first: dict[bytes, str] = {}  # digest of a text -> place of the row that is kept
    answers: dict[str, bytes] = {}
    repeats, rows = list[Repeat](), 0
    with writing(out) as write:
        for rows, item in enumerate(stream.good(), start=1):
            text = fold(chosen(item, by))
            digest, answer = _digest(text), _digest(fold(answered(item.row)))
            of, how, like = first.get(digest), "exact", 1.0
            if of is None and index is not None and (found := index.find_or_add(item.place, text)):
                of, how, like = found.key, "near", found.likeness
            if of is None:
                first[digest], answers[item.place] = item.place, answer
                write(item.record)
            else:
                repeats.append(Repeat(item.place, of, how, round(like, 4), answers[of] != answer))
            if on_progress is not None and rows % 256 == 0:
                on_progress(rows)
    return Deduped(stream.title, rows, rows - len(repeats), near, repeats)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
