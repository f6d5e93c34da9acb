"""Rows with labels: a text with a label, several, or a number; words with a tag each; a question with choices.

    {"text", "label"}      label: a name (or a whole number), a list of names, or a number with a point
    {"tokens", "tags"}     a tag a word
    {"prompt", "choices", "answer"}   or "question": the answer is one of the choices, or its place from 0

Any row that `rows` reads can have a label: the field may stand in the JSON object that it answers (`texts.label`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundup.core.errors import UsageError
from groundup.core.labels import Labels, Problem
from groundup.data.formats import Record
from groundup.data.kinds import Row
from groundup.data.rows import Dataset, Item, Stream
from groundup.data.texts import asked, label

LABELLED = ("label", "tags")  # kinds of rows that teach a head


def labelled(source: str | Path | Sequence[Record], field: str | None = None, *, part: str = "train") -> Dataset:
    """The rows as {"text", "label"} (kind `label`) or {"tokens", "tags"} (kind `tags`).

    field: where the label stands; left out, `label`. Raises UsageError for a row without one.
    """
    stream = Stream(source, part=part)
    rows, lines = list[Row](), list[int]()
    for item in stream.good():
        rows.append(item.row if item.kind == "tags" else {"text": asked(item.row), "label": _value(item, field)})
        lines.append(item.line)
    kind = "tags" if stream.kind == "tags" else "label"
    return Dataset(rows, kind, stream.path, lines, tuple(k for k in stream.ignored if k != (field or "label")))


def has_labels(source: str | Path | Sequence[Record], field: str | None = None, *, part: str = "train") -> bool:
    """Whether the rows teach a head for labels: where `field` names their label, or, left out, where the first row is a
    text with a `label`, or words with tags. "none" says no."""
    if field is not None:
        return field != "none"
    first = next(iter(Stream(source, part=part)), None)
    return isinstance(first, Item) and (first.kind == "tags" or (first.kind == "text" and "label" in first.record))


def _value(item: Item, field: str | None) -> Any:
    """The label: as it stands in the record, else from the JSON that the row answers. UsageError where there is none."""
    name = field or "label"
    value = item.record[name] if name in item.record else label(item, name)
    if isinstance(value, list) and all(isinstance(v, str | int) for v in value):
        return [str(v) for v in value]
    if value is None or isinstance(value, list | dict) or (isinstance(value, str) and not value.strip()):
        known = ", ".join(map(str, item.record))
        raise UsageError(f"{item.place} has no label in the field '{name}'. Its fields: {known}; name one (--label).")
    return value


def labels_in(dataset: Dataset, problem: Problem | None = None) -> Labels:
    """The labels of these rows, names in the order of the alphabet (numbers by size).

    problem: left out, lists are `multi`, numbers with a point `regression`, all else `single`.
    """
    if dataset.kind == "tags":
        return Labels(_ordered(set().union(*map(names_of, dataset.rows))), "single", "token")
    values = [row["label"] for row in dataset.rows]
    if problem is None:
        several = any(isinstance(v, list) for v in values)
        problem = "multi" if several else "regression" if all(isinstance(v, float) for v in values) else "single"
    if problem == "regression":
        return Labels(("score",), "regression")
    names = set().union(*map(names_of, dataset.rows))
    if problem == "single" and len(names) < 2:
        raise UsageError(f"{dataset.name}: every row has the label {', '.join(names)}; there is nothing to tell apart")
    return Labels(_ordered(names), problem)


def names_of(row: Row) -> set[str]:
    """The names of a labelled row's labels, or of its words' tags."""
    value = row["tags"] if "tags" in row else row["label"]
    return {str(name) for name in (value if isinstance(value, list) else [value])}


def target(value: Any, labels: Labels, where: str) -> list[float]:
    """A row's label as one number a label: 1 where it holds, or the number itself. UsageError, with the row's place."""
    if labels.problem == "regression":
        try:
            found = [float(v) for v in (value if isinstance(value, list) else [value])]
        except (TypeError, ValueError):
            found = []
        if len(found) != len(labels.names) or not all(abs(v) < float("inf") for v in found):
            raise UsageError(f"{where}: the label is {value!r}, and the head learns {len(labels.names)} number(s).")
        return found
    names = [str(v) for v in (value if isinstance(value, list) else [value])]
    unknown = [name for name in names if name not in labels.names]
    if unknown or (labels.problem == "single" and len(names) != 1):
        shown = ", ".join(labels.names[:8]) + (" ..." if labels.names[8:] else "")
        raise UsageError(f"{where}: the label is {value!r}, and the head's {labels.problem} labels are {shown}.")
    return [float(name in names) for name in labels.names]


def _ordered(names: set[str]) -> tuple[str, ...]:
    numbers = all(name.lstrip("-").isdecimal() for name in names)
    return tuple(sorted(names, key=int) if numbers else sorted(names))


# --- choices ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """What is asked, as it is read; the choices that may follow; the place of the right one."""

    prompt: str
    choices: tuple[str, ...]
    answer: int


def question(row: Row) -> Question:
    """A row of kind `choices`. A "question" is asked as benchmarks do it: `Question: ...`, and `Answer:` on a line below."""
    prompt = row["prompt"] if "prompt" in row else f"Question: {row['question']}\nAnswer:"
    return Question(prompt, tuple(row["choices"]), row["answer"])
