"""What a row says, as plain text: all of it, what it asks, what it answers, its label, its words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from groundup.core.errors import UsageError
from groundup.data.kinds import Row
from groundup.data.rows import Item

LABEL_WORDS = 10  # an answer of more words is a text, not a label


def said(row: Row) -> str:
    """All that the row says, in its order, piece by piece on lines of their own."""
    if "messages" in row:
        return "\n".join(_turn(message) for message in row["messages"])
    return "\n".join(_leaves({key: value for key, value in row.items() if key != "tools"}))


def asked(row: Row) -> str:
    """What stands before the answer: all messages but the last, or the prompt; a row of text is asked as a whole."""
    if "messages" in row:
        turns = row["messages"][:-1] if row["messages"][-1]["role"] == "assistant" else row["messages"]
        return "\n".join(_turn(message) for message in turns)
    return row["prompt"] if isinstance(row.get("prompt"), str) else said(row)


def answered(row: Row) -> str:
    """The last assistant turn or the completion; "" where the row has none."""
    if "messages" in row:
        last = row["messages"][-1]
        return _turn(last) if last["role"] == "assistant" else ""
    return row["completion"] if isinstance(row.get("completion"), str) else ""


def chosen(item: Item, field: str | None) -> str:
    """The text of one field of a row: of its record, or "prompt" and "completion" of any chat; None takes all it says.

    Raises UsageError, with the row's place, where there is no such field.
    """
    if field is None:
        return said(item.row)
    if field in item.record:
        value = item.record[field]
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    if field == "prompt":
        return asked(item.row)
    if field == "completion" and (answer := answered(item.row)):
        return answer
    known = ", ".join(map(str, item.record))
    raise UsageError(f"{item.place} has no field '{field}'. Its fields: {known}; or prompt, completion.")


def label(item: Item, field: str | None = None) -> str | None:
    """The row's label: the value of `field`, in the record or in the JSON object that the row answers.

    Without a field: the record's "label", or else the answer when it has at most ten words. None where there is none.
    """
    if field is None and "label" not in item.record:
        answer = answered(item.row).strip()
        return answer if answer and "\n" not in answer and len(answer.split()) <= LABEL_WORDS else None
    name = field or "label"
    value = item.record[name] if name in item.record else _inside(answered(item.row), name)
    return None if value is None else str(value)


def fold(text: str) -> str:
    """The text but for case and white space."""
    return " ".join(text.casefold().split())


def words(text: str) -> list[str]:
    """The words and numbers of a text, without case and punctuation."""
    return re.findall(r"\w+", text.casefold())


def runs(items: list[str], length: int) -> set[tuple[str, ...]]:
    """All runs of so many words that stand together; the whole where there are fewer."""
    return {tuple(items[at : at + length]) for at in range(max(1, len(items) - length + 1))} if items else set()


def _inside(answer: str, name: str) -> Any:
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    return found.get(name) if isinstance(found, dict) else None


def _turn(message: dict[str, Any]) -> str:
    calls = message.get("tool_calls")
    more = json.dumps(calls, ensure_ascii=False, sort_keys=True) if calls else ""
    return "\n".join(part for part in (message["content"], more) if part)


def _leaves(value: object) -> Iterator[str]:
    if isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _leaves(inner)
    elif value is not None:
        yield str(value)
