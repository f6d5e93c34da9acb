"""How the next token is chosen from its scores: filters that forbid and weigh, then the likeliest or a draw.

    scores [B, V] -> repetition penalty -> filters of the user (a grammar) -> temperature -> top-k -> top-p -> min-p
                  -> the likeliest (temperature 0), or a draw

The same order and the same numbers as in transformers, so that its `generation_config.json` means the same here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from groundup.core.errors import UsageError

Filter = Callable[[list[int], Tensor, int], Tensor]
"""`(ids, logits, row) -> logits`: ids of the row so far, prompt included; logits [V]; row: the answer's number.

-inf forbids a token. What needs a state of its own for every answer is a `PerRow`."""


@runtime_checkable
class PerRow(Protocol):
    """Makes a filter for each answer, which sees that answer alone, from its first token on."""

    def start(self) -> Filter: ...


@dataclass(frozen=True)
class Sampling:
    """How to answer.

    max_tokens           the longest answer, in tokens
    temperature          scores are divided by it; 0 takes the likeliest token
    top_k                choose among so many tokens (0: all)
    top_p                ... among the likeliest that together reach this probability (arXiv 1904.09751)
    min_p                ... among those at least this share as likely as the likeliest (arXiv 2407.01082)
    repetition_penalty   scores of tokens that stand in the row are divided by it, or multiplied where negative
                         (arXiv 1909.05858)
    stop                 texts at which an answer ends; they are not part of it
    seed                 the same seed gives the same answer, whatever else is answered at the same time
    n                    answers to each prompt
    beams                beam search of this width instead of one token after the other

    Raises UsageError, naming the value and what it may be.
    """

    max_tokens: int = 128
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1
    beams: int = 1

    def __post_init__(self) -> None:
        share = "a number from 0 to 1"
        self._check("max_tokens", self.max_tokens >= 0, "0 or more")
        self._check("temperature", 0 <= self.temperature < math.inf, "0 (the likeliest token) or more")
        self._check("top_k", self.top_k is None or self.top_k >= 0, "0 (all tokens) or more")
        self._check("top_p", self.top_p is None or 0 <= self.top_p <= 1, share)
        self._check("min_p", self.min_p is None or 0 <= self.min_p <= 1, share)
        self._check("repetition_penalty", self.repetition_penalty is None or self.repetition_penalty > 0, "above 0")
        self._check("stop", all(self.stop), "texts of at least one character")
        self._check("seed", self.seed is None or -(2**63) <= self.seed < 2**63, "a whole number of 64 bits")
        self._check("n", self.n >= 1, "1 or more")
        self._check("beams", self.beams >= 1, "1 or more")
        if self.beams > 1 and (self.n > 1 or self.temperature > 0):
            raise UsageError(f"beams={self.beams} searches for one likeliest answer: use n=1 and temperature=0 with it")
        if self.greedy and self.n > 1:
            raise UsageError(f"n={self.n} answers at temperature=0 would all be the same: raise the temperature")

    def _check(self, name: str, right: bool, wanted: str) -> None:
        if not right:
            raise UsageError(f"{name}={getattr(self, name)!r} makes no sense; it must be {wanted}")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0 or self.top_k == 1

    def described(self) -> str:
        """One line for people."""
        if self.beams > 1:
            return f"beam search, {self.beams} beams, at most {self.max_tokens} tokens"
        parts = ["greedy"] if self.greedy else [f"temperature {self.temperature:g}"]
        shown: dict[str, Any] = {"top_k": self.top_k, "top_p": self.top_p, "min_p": self.min_p}
        shown = {} if self.greedy else shown
        shown |= {"repetition_penalty": self.repetition_penalty, "seed": self.seed}
        parts += [f"{name} {value:g}" for name, value in shown.items() if value is not None]
        return ", ".join([*parts, f"at most {self.max_tokens} tokens"])


def penalize(logits: Float[Tensor, "V"], ids: Sequence[int], penalty: float) -> Float[Tensor, "V"]:
    """Scores of the tokens in `ids` made smaller by `penalty` (larger if it is below 1)."""
    seen = torch.tensor(sorted(set(ids)), device=logits.device)
    scores = logits[seen]
    return logits.index_copy(0, seen, torch.where(scores < 0, scores * penalty, scores / penalty))


def keep_top_k(logits: Float[Tensor, "B V"], k: int) -> Float[Tensor, "B V"]:
    """-inf for all but the k highest of each row (and those equal to the k-th)."""
    least = logits.topk(min(k, logits.shape[1]), dim=1).values[:, -1:]
    return logits.masked_fill(logits < least, -math.inf)


def keep_top_p(logits: Float[Tensor, "B V"], p: float) -> Float[Tensor, "B V"]:
    """-inf for all but the fewest likeliest tokens whose probabilities add up to at least p; at least one stays."""
    ordered, index = logits.sort(dim=1)
    below = ordered.softmax(1).cumsum(1) <= 1 - p  # this token and all less likely ones can go
    below[:, -1] = False
    return logits.masked_fill(below.scatter(1, index, below), -math.inf)


def keep_min_p(logits: Float[Tensor, "B V"], p: float) -> Float[Tensor, "B V"]:
    """-inf for tokens whose probability is below p times that of the likeliest."""
    probabilities = logits.softmax(1)
    return logits.masked_fill(probabilities < p * probabilities.amax(1, keepdim=True), -math.inf)


def weigh(logits: Float[Tensor, "B V"], sampling: Sampling) -> Float[Tensor, "B V"]:
    """Temperature, top-k, top-p, min-p, in this order: scores whose softmax is drawn from."""
    if sampling.temperature != 1.0:
        logits = logits / sampling.temperature
    if sampling.top_k:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.top_p is not None and sampling.top_p < 1:
        logits = keep_top_p(logits, sampling.top_p)
    if sampling.min_p:
        logits = keep_min_p(logits, sampling.min_p)
    return logits


def draw(logits: Float[Tensor, "B V"], generators: Sequence[torch.Generator]) -> Int[Tensor, "B"]:
    """One token a row from softmax(logits), by one number of the row's own generator (on the CPU).

    A row's token depends on its scores and its generator alone, not on the other rows.
    """
    numbers = [torch.rand(1, generator=g, dtype=torch.float64) for g in generators]
    reached = logits.double().softmax(1).cumsum(1)  # in float64, as 1e5 terms are added up
    point = torch.cat(numbers).to(logits.device)[:, None] * reached[:, -1:]
    return torch.searchsorted(reached, point, right=True)[:, 0].clamp(max=logits.shape[1] - 1)


def likeliest(logits: Float[Tensor, "B V"]) -> list[tuple[int, float]]:
    """The token with the highest score of each row, the first of equals, and the score (NaN if one of them is)."""
    if logits.device.type != "cpu":
        best = logits.max(1)
        return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    scores = logits.numpy()  # its argmax takes a twentieth of the time that torch's takes over a large vocabulary
    return [(int(i), float(row[i])) for i, row in zip(scores.argmax(1), scores, strict=True)]
