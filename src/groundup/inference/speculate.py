"""Guessed ahead, then checked in one call (speculative decoding; Leviathan et al., arXiv 2211.17192).

    draft     d1 d2 d3 d4                   guessed at little cost
    check     t  d1 d2 d3 d4                one call gives the scores behind each
    choose    d1 d2 x                       each token as it would be chosen without a draft; the first that differs ends the
                                            round, and what was read behind it is forgotten

A draft is a guess without chance, so "take the guess with probability p(guess), else draw from the rest" is the same as drawing
from p and seeing whether it is the guess. That is done here, with the row's own source of chance: the same seed gives the
same text with a draft and without (to the roundings of a call with more tokens).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch

from groundup.core.errors import UsageError
from groundup.inference.runner import Runner
from groundup.nn.stack import Decoder, Encoder, recurrent


@runtime_checkable
class Draft(Protocol):
    """What guesses how a row goes on."""

    def propose(self, number: int, ids: list[int], most: int) -> list[int]:
        """At most so many ids that may follow `ids`, the prompt included, of answer `number`; none is allowed, too."""
        ...

    def forget(self, number: int) -> None:
        """That answer is done."""
        ...


@dataclass(frozen=True)
class Lookup:
    """Goes on as the text did after the last place where its newest tokens stood (prompt look-up).

    count  ids guessed at a time; tail: how many of the newest tokens must stand there, at most (fewer are tried after)
    """

    count: int = 8
    tail: int = 3

    def __post_init__(self) -> None:
        if self.count < 1 or self.tail < 1:
            raise UsageError(f"lookup {self.count} of tails of {self.tail}: both must be 1 or more")

    def propose(self, number: int, ids: list[int], most: int) -> list[int]:
        most = min(most, self.count)
        for size in range(min(self.tail, len(ids) - 1), 0, -1):
            tail = ids[-size:]
            for begin in range(len(ids) - size - 1, -1, -1):
                if ids[begin : begin + size] == tail:
                    return ids[begin + size : begin + size + most]
        return []

    def forget(self, number: int) -> None:
        """Nothing is kept."""


@dataclass
class Small:
    """A smaller decoder with the same vocabulary guesses its likeliest tokens.

    count  ids guessed at a time; room: the longest row that it can hold (None: any); a longer one gets no guesses
    """

    network: Decoder
    count: int = 4
    adapter: str | None = None
    room: int | None = None
    device: torch.device | str = "cpu"
    rows: dict[int, tuple[Runner, list[int]]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError(f"a draft of {self.count} tokens makes no sense; it must be 1 or more")

    def propose(self, number: int, ids: list[int], most: int) -> list[int]:
        most = min(most, self.count, most if self.room is None else self.room - len(ids))
        if most < 1:
            return []
        if number not in self.rows:
            self.rows[number] = Runner(self.network, 1, 1 << 30, torch.device(self.device)), []
        runner, held = self.rows[number]
        same = next((i for i, (a, b) in enumerate(zip(held, ids, strict=False)) if a != b), min(len(held), len(ids)))
        same = min(same, len(ids) - 1)  # one is read again, for its scores
        runner.cache.rollback(0, len(held) - same)
        scores = runner.join([ids[same:]], [0], [self.adapter])
        guessed = [int(scores[0].argmax())]
        while len(guessed) < most:
            guessed.append(int(runner.go_on(guessed[-1:], [self.adapter])[0].argmax()))
        self.rows[number] = runner, [*ids, *guessed[:-1]]
        return guessed

    def forget(self, number: int) -> None:
        """Its cache is free."""
        self.rows.pop(number, None)


def ahead(model: Any, draft: Any, lookup: int | None) -> Draft | None:
    """What guesses ahead for a model: the text itself, or a smaller model (both as `groundup.Model`); None without either.

    UsageError for both, and for a draft that writes no text or reads other tokens.
    """
    if draft is None:
        return Lookup(lookup) if lookup else None
    if lookup:
        raise UsageError("draft and lookup both guess ahead: give one of them")
    if recurrent(draft.network):
        raise UsageError("a recurrent model cannot take back what it guessed: take another draft")
    if not isinstance(draft.network, Decoder) or isinstance(draft.network, Encoder):
        raise UsageError("a draft is a decoder, which writes text")
    ours, its = (int(each.config.to_public()["vocab_size"]) for each in (model, draft))
    if ours != its:
        raise UsageError(f"a draft reads the same tokens: its vocabulary has {its:,}, the model's {ours:,}")
    return Small(draft.network, adapter=draft.adapter, room=draft.room, device=draft.device)
