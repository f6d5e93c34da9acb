"""In-context examples: rows answered before the question, in the prompt, with no weight changed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

from groundup.core.errors import UsageError
from groundup.data.encode import messages_of, reference_of
from groundup.data.kinds import Row
from groundup.data.texts import asked, fold

Form = Literal["chat", "text"]


def shots(
    rows: Sequence[Row],
    examples: Sequence[Row],
    k: int,
    *,
    instruction: str = "",
    seed: int = 0,
    form: Form = "chat",
    balanced: bool = True,
) -> list[Row]:
    """Each row with k examples before its question, drawn by the seed and the row; no row is its own example.

    form         "chat": turns of user and assistant (a row {"prompt": messages, "completion": messages}, of which only
                 the last answer is trained or asked for); "text": one text of "question\\nanswer" paragraphs, for models
                 without a chat template
    instruction  said before all: as the system's message, or as the first paragraph
    balanced     go through the answers in turn, so that k examples show as many different ones as they can

    Raises UsageError where fewer than k examples ask something else than the row.
    """
    if k < 0:
        raise UsageError(f"{k} examples are none. Give 0 or more.")
    order = sorted(examples, key=lambda each: _draw(fold(asked(each)), seed))
    groups: dict[str, list[Row]] = {}
    for each in order:
        groups.setdefault(reference_of(each) if balanced else "", []).append(each)
    return [_with(row, _choose(row, list(groups.values()), k, seed), instruction, form) for row in rows]


def _choose(row: Row, groups: list[list[Row]], k: int, seed: int) -> list[Row]:
    """One of each group in turn; the row and the seed say where to begin."""
    own, chosen = fold(asked(row)), list[Row]()
    start = int.from_bytes(_draw(own, seed)[:8], "big")
    for turn in range(max(map(len, groups), default=0) if k else 0):
        for at in range(len(groups)):
            group = groups[(start + at) % len(groups)]
            if turn < len(group) and fold(asked(each := group[(start + turn) % len(group)])) != own:
                chosen.append(each)
                if len(chosen) == k:
                    return chosen
    if len(chosen) < k:
        raise UsageError(f"{k} examples were asked for, {len(chosen)} ask something else than the row. Give more rows.")
    return chosen


def _with(row: Row, examples: list[Row], instruction: str, form: Form) -> Row:
    own = messages_of(row)
    answer = own[-1:] if own[-1]["role"] == "assistant" else []
    if form == "text":
        paragraphs = [instruction] if instruction else []
        paragraphs += [f"{asked(each)}\n{reference_of(each)}" for each in examples]
        text = "\n\n".join([*paragraphs, f"{asked(row)}\n"])
        return {"prompt": text} | ({"completion": reference_of(row)} if answer else {})
    question = own[: len(own) - len(answer)]
    system = question[:1] if question[0]["role"] == "system" else []
    if system and instruction:
        raise UsageError("The rows have a system message already: leave the instruction out.")
    if instruction:
        system = [{"role": "system", "content": instruction}]
    before = [turn for each in examples for turn in messages_of(each) if turn["role"] != "system"]
    prompt = [*system, *before, *(turn for turn in question if turn["role"] != "system")]
    return {"prompt": prompt} | ({"completion": answer} if answer else {})


def _draw(text: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\n{text}".encode("utf-8", "surrogatepass")).digest()
