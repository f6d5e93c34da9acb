"""`groundup data check` and `groundup data show-mask`: all that is wrong with a file of rows, and what is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from groundup.core.errors import UsageError
from groundup.data.encode import encode
from groundup.data.formats import Record
from groundup.data.kinds import TRAINABLE, Row
from groundup.data.problems import Problem, printable
from groundup.data.rows import Dataset, fingerprint, scan
from groundup.data.summary import odd
from groundup.data.texts import answered, asked, fold, said
from groundup.inputs.tokenizer import Tokenizer


@dataclass(frozen=True)
class Tokens:
    """Lengths of the rows in tokens, and how many of all tokens are trained."""

    shortest: int
    median: float
    longest: int
    total: int
    trained: int

    @property
    def trained_share(self) -> float:
        return self.trained / self.total if self.total else 0.0


@dataclass(frozen=True)
class Cost:
    """What a service that bills by the token would read, in so many epochs as OpenAI's guide to fine-tuning takes: three,
    but no fewer than 100 rows in all (at most 25 epochs) and no more than 25,000. `price` is for a million tokens."""

    epochs: int
    tokens: int
    price: float | None = None

    @classmethod
    def of(cls, lengths: Sequence[int], most: int | None = None, price: float | None = None) -> Cost:
        """For rows of these lengths in tokens, none read further than `most`."""
        rows = len(lengths)
        epochs = 3
        if rows * epochs < 100:
            epochs = min(25, 100 // rows)
        elif rows * epochs > 25_000:
            epochs = max(1, 25_000 // rows)
        return cls(epochs, epochs * sum(length if most is None else min(length, most) for length in lengths), price)

    def __str__(self) -> str:
        money = "" if self.price is None else f", at {self.price:g} a million: {self.tokens * self.price / 1e6:.2f}"
        times = "1 epoch" if self.epochs == 1 else f"{self.epochs} epochs"
        return f"{times}, as OpenAI's guide takes, read {self.tokens:,} tokens{money}"


@dataclass(frozen=True)
class Check:
    """What a file holds and all that is wrong with it.

    `duplicates` are groups of places that say the same but for case and white space, `conflicts` of places that ask the
    same and answer differently; `odd` has the places of rows with letters that are seldom meant; `too_long` and
    `untrained` are places of rows over the limit and of rows in which nothing is trained. `cost` is known of chats.
    """

    file: str
    summary: str
    rows: int
    kind: str
    trainable: bool
    problems: list[Problem]
    duplicates: list[list[str]] = field(default_factory=list)
    conflicts: list[list[str]] = field(default_factory=list)
    odd: dict[str, list[str]] = field(default_factory=dict)
    tokens: Tokens | None = None
    too_long: list[str] = field(default_factory=list)
    untrained: list[str] = field(default_factory=list)
    cost: Cost | None = None

    @property
    def ok(self) -> bool:
        """Every row can be used as it is; duplicates, conflicts and odd letters are no fault."""
        return self.trainable and not (self.problems or self.too_long or self.untrained)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        share = {"trained_share": self.tokens.trained_share} if self.tokens else {}
        return {**asdict(self), "ok": self.ok, **share}

    def text(self, most: int = 20) -> str:
        """A few lines for a terminal, with at most so many problems."""
        lines = [self.summary]
        if not self.trainable and self.rows:
            lines.append(f"{self.kind} rows cannot be trained by next token; {', '.join(TRAINABLE)} can")
        if tokens := self.tokens:
            lines.append(
                f"tokens a row: {tokens.shortest} to {tokens.longest}, median {tokens.median:g}; "
                f"{tokens.total:,} in all, {100 * tokens.trained_share:.1f} % trained"
            )
        if self.cost:
            lines.append(str(self.cost))
        if self.duplicates:
            extra = sum(len(group) - 1 for group in self.duplicates)
            lines.append(f"{extra} rows repeat another one, for example {', '.join(self.duplicates[0][:3])}")
        if self.conflicts:
            first = ", ".join(self.conflicts[0][:3])
            lines.append(f"{len(self.conflicts)} questions stand with different answers, for example {first}")
        lines += [f"{len(places)} rows hold {what}, for example {places[0]}" for what, places in self.odd.items()]
        for places, what in ((self.too_long, "are too long"), (self.untrained, "train nothing")):
            if places:
                lines.append(f"{len(places)} rows {what}: {', '.join(places[:3])}{', ...' if places[3:] else ''}")
        lines += [str(problem) for problem in self.problems[:most]]
        if len(self.problems) > most:
            lines.append(f"... and {len(self.problems) - most} problems more")
        return "\n".join(lines + (["no problems found"] if self.ok else []))


def check(
    source: str | Path | Sequence[Record],
    tokenizer: Tokenizer | None = None,
    *,
    max_tokens: int | None = None,
    price: float | None = None,
    part: str = "train",
) -> Check:
    """Reads all rows and reports all problems; with a tokenizer also lengths, the trained share, rows too long, and for
    chats what they would cost (`price`: of a million tokens)."""
    dataset, problems = scan(source, part=part)
    groups: dict[str, list[str]] = {}
    answers: dict[str, dict[str, str]] = {}
    strange: dict[str, list[str]] = {}
    for index, row in enumerate(dataset.rows):
        place = dataset.where(index)
        groups.setdefault(fingerprint(row), []).append(place)
        if answer := answered(row):
            answers.setdefault(fold(asked(row)), {}).setdefault(fold(answer), place)
        for what in odd(said(row)):
            strange.setdefault(what, []).append(place)
    lengths, tokens, too_long, untrained = list[int](), None, list[str](), list[str]()
    trainable = dataset.kind in TRAINABLE
    if tokenizer is not None and trainable and len(dataset):
        lengths, tokens, too_long, untrained = _count(dataset, tokenizer, max_tokens, problems)
    return Check(
        file=str(dataset.path or dataset.name),
        summary=str(dataset),
        rows=len(dataset),
        kind=dataset.kind,
        trainable=trainable,
        problems=problems,
        duplicates=[places for places in groups.values() if places[1:]],
        conflicts=[list(places.values()) for places in answers.values() if len(places) > 1],
        odd=strange,
        tokens=tokens,
        too_long=too_long,
        untrained=untrained,
        cost=Cost.of(lengths, max_tokens, price) if lengths and dataset.kind != "text" else None,
    )


def _count(
    dataset: Dataset, tokenizer: Tokenizer, max_tokens: int | None, problems: list[Problem]
) -> tuple[list[int], Tokens | None, list[str], list[str]]:
    lengths, trained, too_long, untrained = list[int](), 0, list[str](), list[str]()
    for index, row in enumerate(dataset.rows):
        try:
            encoded = encode(row, tokenizer)
        except UsageError as error:
            problems.append(Problem(dataset.name, dataset.lines[index], "", str(error).rstrip("."), "", dataset.unit))
            continue
        lengths.append(len(encoded.ids))
        trained += sum(encoded.trained)
        if max_tokens is not None and len(encoded.ids) > max_tokens:
            too_long.append(f"{dataset.where(index)} ({len(encoded.ids)} tokens)")
        if not any(encoded.trained):
            untrained.append(dataset.where(index))
    if not lengths:
        return lengths, None, too_long, untrained
    tokens = Tokens(min(lengths), median(lengths), max(lengths), sum(lengths), trained)
    return lengths, tokens, too_long, untrained


class Segment(NamedTuple):
    """A token as text that is safe to print, and whether it is trained. A character may take several tokens."""

    text: str
    trained: bool
    tokens: int = 1


def show_mask(row: Row, tokenizer: Tokenizer) -> list[Segment]:
    """The row token by token; line breaks and all control characters are written as escapes (\\n, \\x1b)."""
    encoded = encode(row, tokenizer)
    segments, held, before = list[Segment](), list[int](), list[int]()
    for number, (token, trained) in enumerate(zip(encoded.ids, encoded.trained, strict=True)):
        held.append(token)
        ends = number + 1 == len(encoded.ids) or encoded.trained[number + 1] != trained
        lead = tokenizer.decode(before, skip_control=False)  # the token before shows whether a space stands between
        text = tokenizer.decode(before + held, skip_control=False)
        text = text[len(lead) :] if text.startswith(lead) else tokenizer.decode(held, skip_control=False)
        if text.endswith("\ufffd") and not ends and len(held) < 4:  # half a character
            continue
        segments.append(Segment(printable(text), trained, len(held)))
        held, before = [], [token]
    return segments


def render_mask(segments: Sequence[Segment], *, tokens: bool = False) -> str:
    """Lines for a plain terminal, what is trained marked at the left; with `tokens` one token a line.

    |            <|im_start|>user\\n
    |            Hello<|im_end|>\\n
    | [trained]  Hi there<|im_end|>
    """
    lines, line, mark = list[str](), "", False
    for segment in segments:
        if line and (segment.trained != mark or tokens or line.endswith("\\n")):
            lines.append(_marked(line, mark))
            line = ""
        line, mark = line + segment.text, segment.trained
    lines.append(_marked(line, mark))
    trained, total = sum(s.tokens for s in segments if s.trained), sum(s.tokens for s in segments)
    return "\n".join([*lines, f"{trained} of {total} tokens trained"])


def _marked(line: str, trained: bool) -> str:
    return f"{'[trained]' if trained else '':11}{line}"
