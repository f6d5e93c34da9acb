"""Texts into rows of a given length, for models that learn all of a text.

    apart    a a a a E | b b E | c c c E        a row holds whole texts up to its length; none sees another, and positions
                                                begin anew with each: in the network they are rows of their own
    joined   a a a a E b b E c | c c E d ...    one stream, cut where a row is full; what follows sees what stands before

E ends a text. Nothing is filled up, for rows need not be of one length. Where words are masked, every piece stands in
the frame of the tokenizer ([CLS] ... [SEP]).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from groundup.core.errors import UsageError
from groundup.inputs.tokenizer import Encoded, Tokenizer
from groundup.training.masked import marked
from groundup.training.objective import Objective

Documents = Literal["apart", "joined"]


@dataclass(frozen=True)
class Packed(Encoded):
    """Texts end to end that do not see each other; `ends`: where each ends."""

    ends: tuple[int, ...]


def texts_of(row: Encoded) -> list[Encoded]:
    """The texts of a row that see nothing of each other."""
    if not isinstance(row, Packed):
        return [row]
    starts = (0, *row.ends[:-1])
    return [Encoded(row.ids[a:b], row.trained[a:b]) for a, b in zip(starts, row.ends, strict=True)]


def unpacked(objective: Objective) -> Objective:
    """The same objective for packed rows."""

    def loss(network: Any, rows: Sequence[Encoded], **how: Any) -> Any:
        return objective.loss(network, [text for row in rows for text in texts_of(row)], **how)

    return replace(objective, loss=loss, count=lambda row: sum(map(objective.count, texts_of(row))))


def pack(
    texts: Sequence[str], tokenizer: Tokenizer, length: int, *, documents: Documents = "apart", masked: bool = False
) -> list[Encoded]:
    """Rows of at most `length` tokens from these texts, in their order.

    A text that is longer is cut. Raises UsageError for a length that leaves no room.
    """
    head, tail = around(tokenizer)
    room = length - len(head) - len(tail) if masked else length
    if room < 2:
        raise UsageError(f"rows of {length} tokens hold no text: give a greater length")
    words = tokenizer.encode_batch(texts, special=False)
    if not masked:
        end = tail or ([] if tokenizer.eos_id is None else [tokenizer.eos_id])
        words = [[*head, *ids, *end] for ids in words]
    elif documents == "joined":
        words = [[*ids, *tail[-1:]] for ids in words]
    if documents == "joined":
        words = [[id for ids in words for id in ids]]
    pieces = [ids[i : i + room] for ids in words for i in range(0, len(ids), room)]
    if masked:
        found = [marked([*head, *piece, *tail], tokenizer) for piece in pieces]
        found = [piece for piece in found if any(piece.trained)]
    else:
        found = [Encoded(piece, [False] + [True] * (len(piece) - 1)) for piece in pieces if len(piece) > 1]
    if not found:
        raise UsageError("the texts hold no words to learn")
    return found if documents == "joined" else _gathered(found, length)


def around(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before a text and behind it."""
    text = "a"
    framed, plain = tokenizer.encode(text), tokenizer.encode(text, special=False)
    at = next(i for i in range(len(framed)) if framed[i : i + len(plain)] == plain)
    return framed[:at], framed[at + len(plain) :]


def _gathered(texts: list[Encoded], length: int) -> list[Encoded]:
    rows: list[Encoded] = []
    held: list[Encoded] = []
    size = 0
    for text in texts:
        if held and size + len(text.ids) > length:
            rows.append(_row(held))
            held, size = [], 0
        held.append(text)
        size += len(text.ids)
    return [*rows, _row(held)]


def _row(texts: Sequence[Encoded]) -> Packed:
    ends, ids, trained = list[int](), list[int](), list[bool]()
    for text in texts:
        ids += text.ids
        trained += text.trained
        ends.append(len(ids))
    return Packed(ids, trained, tuple(ends))
