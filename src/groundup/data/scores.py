"""Scores of rows, by which a filter keeps the better ones: heuristics, a model's perplexity, a column of the rows.

A scorer is anything with a `name`, `low` (whether the lower score is the better one) and a call that scores rows.
Few good rows can be worth more than many bad ones: L. Chen et al., "AlpaGasus", ICLR 2024.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from groundup.core.errors import UsageError
from groundup.data.rows import Item
from groundup.data.texts import answered, chosen, said, words

if TYPE_CHECKING:
    from groundup.model import Model


@runtime_checkable
class Scorer(Protocol):
    """Scores rows, one number each, in their order."""

    @property
    def name(self) -> str: ...

    @property
    def low(self) -> bool: ...

    def __call__(self, items: Sequence[Item]) -> list[float]: ...


@dataclass(frozen=True)
class Heuristic:
    """A number that is counted on the text of a row alone."""

    name: str
    measure: Callable[[str], float]
    low: bool = False
    answer: bool = False

    def __call__(self, items: Sequence[Item]) -> list[float]:
        return [float(self.measure(answered(item.row) if self.answer else said(item.row))) for item in items]


def _share(count: int, of: int) -> float:
    return count / of if of else 0.0


def _packing(text: str) -> float:
    data = text.encode("utf-8", "replace")
    return _share(len(data), len(zlib.compress(data, 9)))


HEURISTICS = {
    scorer.name: scorer
    for scorer in (
        Heuristic("words", lambda text: len(words(text))),
        Heuristic("answer-words", lambda text: len(words(text)), answer=True),
        Heuristic("letters", lambda text: _share(sum(char.isalpha() or char.isspace() for char in text), len(text))),
        Heuristic("variety", lambda text: _share(len(set(words(text))), len(words(text)))),
        Heuristic("repetition", _packing, low=True),
    )
}
"""words, answer-words: how many; letters: their share of the characters, with white space; variety: distinct words among
all; repetition: how many times smaller the text packs, above about 4 it repeats itself (the lower the better)."""


@dataclass(frozen=True)
class Column:
    """A number that stands in the rows already. Raises `UsageError` where a row has none."""

    field: str
    low: bool = False

    @property
    def name(self) -> str:
        return f"column:{self.field}"

    def __call__(self, items: Sequence[Item]) -> list[float]:
        return [self._number(item) for item in items]

    def _number(self, item: Item) -> float:
        try:
            value = float(chosen(item, self.field))
        except ValueError:
            value = math.nan
        if math.isnan(value):
            raise UsageError(f"{item.place}, {self.field}: is no number, so it is no score. Write one in every row.")
        return value


@dataclass(frozen=True)
class Perplexity:
    """How surprised a model is by what a row would train, exp of the mean loss a token; the lower the better.

    Rows that are longer than the model reads are cut. A row that trains nothing is infinitely surprising.
    """

    model: Model
    low: bool = True
    name: str = "perplexity"

    def __call__(self, items: Sequence[Item]) -> list[float]:
        from groundup.data.encode import encode
        from groundup.inference.score import nll_each
        from groundup.inputs.tokenizer import Encoded

        model, most = self.model, self.model.context
        rows = [encode(item.row, model.words) for item in items]
        rows = [Encoded(row.ids[:most], row.trained[:most]) for row in rows]
        found = nll_each(model.network, rows, adapter=model.adapter, device=model.device)
        return [math.exp(min(700.0, loss / count)) if count else math.inf for loss, count in found]


def scorer(name: str, model: Model | None = None, *, low: bool | None = None) -> Scorer:
    """The scorer of this name: one of `HEURISTICS`, "perplexity" (needs a model) or "column:FIELD".

    `low` says of a column that its lower numbers are the better ones. Raises UsageError.
    """
    if name.startswith("column:") and name != "column:":
        return Column(name.removeprefix("column:"), bool(low))
    if low is not None:
        raise UsageError(f"Which way '{name}' is better is known: only of a column can it be said.")
    if name == "perplexity":
        if model is None:
            raise UsageError("Perplexity is a model's: name one (--model).")
        return Perplexity(model)
    if name not in HEURISTICS:
        raise UsageError(f"There is no score '{name}'. Choose from {', '.join(HEURISTICS)}, perplexity, column:FIELD.")
    return HEURISTICS[name]
