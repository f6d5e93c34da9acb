"""Rows to token ids and the mask of what is trained.

Only what the model shall say is trained: in a chat every assistant turn with the token that ends it, in a
prompt-completion row the completion and the end of text, in a text row everything. The prompt is never trained.

A prompt-completion row of two texts is a chat of one turn for a tokenizer with a chat template, and plain text for one
without. `prompt_of` makes the same choice, so that a model is asked in the way in which it was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from groundup.core.errors import UsageError
from groundup.data.kinds import TRAINABLE, Row
from groundup.data.rows import Dataset
from groundup.inputs.tokenizer import Encoded, Tokenizer

Message = dict[str, Any]


@dataclass(frozen=True)
class EncodedRows:
    """Encoded rows; `source[i]` is the index of row i in the data set. `cut` rows are shortened, `skipped` left out."""

    rows: list[Encoded]
    source: list[int]
    cut: int = 0
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> list[int]:
        return [len(row.ids) for row in self.rows]

    @property
    def trained(self) -> int:
        """How many tokens are trained, in all."""
        return sum(sum(row.trained) for row in self.rows)

    def __str__(self) -> str:
        """One line to announce: "500 rows, 61,240 tokens, 34.1 % of them trained; 3 rows cut"."""
        total = sum(self.lengths)
        line = f"{len(self)} rows, {total:,} tokens, {100 * self.trained / max(1, total):.1f} % of them trained"
        changed = f"; {self.cut} rows cut" if self.cut else f"; {self.skipped} rows skipped" if self.skipped else ""
        return line + changed


def encode(row: Row, tokenizer: Tokenizer) -> Encoded:
    """One row's ids and trained mask, of its full length. Raises `UsageError` for a row that cannot be trained."""
    if "text" in row:
        return _text(row["text"], tokenizer)
    if "prompt" in row and tokenizer.template is None:
        return _completion(row["prompt"], row.get("completion", ""), tokenizer)
    return _chat(row, messages_of(row), tokenizer)


def encode_all(
    dataset: Dataset,
    tokenizer: Tokenizer,
    max_tokens: int,
    *,
    long: Literal["error", "truncate", "skip"] = "error",
    each: Callable[[Row, Tokenizer], Encoded] = encode,
    kinds: Sequence[str] = TRAINABLE,
) -> EncodedRows:
    """All rows, none longer than `max_tokens`; `each` encodes one. `kinds`: of rows that it takes.

    Longer ones are an error that counts them, unless `long` says "truncate" (their beginning is kept) or "skip". A row
    in which nothing is trained, also after cutting, is an error that names its line.
    """
    trainable(dataset, kinds)
    rows, source, longer = list[Encoded](), list[int](), list[tuple[int, int]]()
    for index, encoded in _each(dataset, tokenizer, each):
        if (length := len(encoded.ids)) > max_tokens:
            longer.append((index, length))
            if long != "truncate":
                continue
            encoded = Encoded(encoded.ids[:max_tokens], encoded.trained[:max_tokens])
        if not any(encoded.trained):
            cut = f" within its first {max_tokens} tokens: its prompt is too long" if length > max_tokens else ""
            raise UsageError(f"{dataset.where(index)} trains nothing{cut}. Shorten it, or remove the row.")
        rows.append(encoded)
        source.append(index)
    if longer and long == "error":
        first = ", ".join(f"{dataset.where(i)} ({length})" for i, length in longer[:3])
        more = ", ..." if longer[3:] else ""
        raise UsageError(
            f"{len(longer)} of {len(dataset)} rows have more than {max_tokens} tokens: {first}{more}. "
            "Allow more tokens, cut them (truncate), or leave them out (skip)."
        )
    if not rows:
        raise UsageError(f"All {len(dataset)} rows of {dataset.name} have more than {max_tokens} tokens. Allow more.")
    return EncodedRows(rows, source, *((len(longer), 0) if long == "truncate" else (0, len(longer))))


def trainable(dataset: Dataset, kinds: Sequence[str] = TRAINABLE) -> None:
    """Raises `UsageError` when rows of this kind cannot be trained, by default by next-token prediction."""
    if dataset.kind not in kinds:
        learns = {TRAINABLE: "the next token", ("choices",): "choices"}.get(tuple(kinds), "labels")
        raise UsageError(
            f"{dataset.name} holds {dataset.kind} rows; this objective learns {learns}. It takes the kinds "
            f"{', '.join(kinds)}."
        )


def prompt_of(row: Row, tokenizer: Tokenizer | None = None) -> str | list[Message]:
    """What the model is asked: the messages before the last answer, or a plain text.

    A plain text is the prompt of a prompt-completion row where the tokenizer has no chat template, and a text row.
    """
    if "text" in row:
        return str(row["text"])
    if "prompt" in row and tokenizer is not None and tokenizer.template is None:
        return str(row["prompt"])
    messages = messages_of(row)
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages


def tools_of(row: Row) -> list[dict[str, Any]] | None:
    """The tools that the row's prompt tells of, as the chat template takes them."""
    return row.get("tools")


def reference_of(row: Row) -> str:
    """What it should answer: the text of the last assistant turn. Raises `UsageError` when the row has none."""
    messages = messages_of(row) if "text" not in row else []
    if not messages or messages[-1]["role"] != "assistant":
        raise UsageError("A row without an answer has nothing to compare with. Add the completion to every row.")
    if not messages[-1]["content"]:
        raise UsageError("A row whose answer is a tool call has no text to compare with. Leave such rows out.")
    return str(messages[-1]["content"])


def _each(
    dataset: Dataset, tokenizer: Tokenizer, each: Callable[[Row, Tokenizer], Encoded]
) -> Iterator[tuple[int, Encoded]]:
    for index, row in enumerate(dataset.rows):
        try:
            yield index, each(row, tokenizer)
        except UsageError as error:
            raise UsageError(f"{dataset.where(index)}: {error}") from None


def messages_of(row: Row) -> list[Message]:
    """The row as a conversation; a prompt and its completion are a chat of one turn. Raises `UsageError`."""
    if "messages" in row:
        return list(row["messages"])
    if "prompt" not in row or "chosen" in row:
        raise UsageError("A row of this kind is no chat. Give messages, or prompt and completion.")
    answer = [{"role": "assistant", "content": row["completion"]}] if "completion" in row else []
    return [{"role": "user", "content": row["prompt"]}, *answer]


def _chat(row: Row, messages: list[Message], tokenizer: Tokenizer) -> Encoded:
    if tokenizer.template is None:
        raise UsageError("The model has no chat template. Write rows of prompt and completion, or take a chat model.")
    tools = row.get("tools")
    encoded = tokenizer.chat_spans(messages, tools=tools)
    given = row.get("given", 0)
    if not any(message["role"] == "assistant" for message in messages[:given]):
        return encoded
    # the prompt shows earlier answers: they are given, not trained
    prompt = tokenizer.chat(messages[:given], add_generation_prompt=True, tools=tools)
    if encoded.ids[: len(prompt)] != prompt:
        raise UsageError("The chat template changes this prompt when an answer follows. Write the row as messages.")
    return Encoded(encoded.ids, [False] * len(prompt) + encoded.trained[len(prompt) :])


def _text(text: str, tokenizer: Tokenizer) -> Encoded:
    ids = _framed(text, tokenizer)
    if tokenizer.eos_id is not None:
        ids.append(tokenizer.eos_id)
    return Encoded(ids, [False] + [True] * (len(ids) - 1))  # nothing stands before the first token to predict it


def _completion(prompt: str, completion: str, tokenizer: Tokenizer) -> Encoded:
    if tokenizer.eos_id is None:
        raise UsageError("The tokenizer names no end-of-text token, so a completion could not learn where to end.")
    ids = _framed(prompt, tokenizer)
    answer = [*tokenizer.encode(completion, special=False), tokenizer.eos_id]
    return Encoded(ids + answer, [False] * len(ids) + [True] * len(answer))


def _framed(text: str, tokenizer: Tokenizer) -> list[int]:
    """The text as the tokenizer begins one (with its BOS), but open at the end."""
    ids = tokenizer.encode(text, special=True)
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_id else ids
