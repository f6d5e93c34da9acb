"""Answers to many prompts at once: rows join, grow by a token a call, and leave when they are done.

    slot 0   p p p p p p a a a .          live rows stand side by side in the cache, so that attention reads views:
    slot 1   p p p p a a                  where one leaves, the last one moves into its place
    slot 2   p p p p p a a a a
    slot 3                                free; when enough are, the next prompts join in one call
    slot 4   p p p                        what all prompts begin with, read once and copied into the rows that join

No row sees another: greedy text is the text that a prompt gets alone (a difference is possible only where the two best
scores are equal to within the roundings of two orders of summation).
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from groundup.core.errors import GroundupError, UsageError
from groundup.core.machine import threads
from groundup.inference.beams import search
from groundup.inference.reader import Reader
from groundup.inference.runner import PREFILL, Runner
from groundup.inference.sampling import Filter, PerRow, Sampling, draw, likeliest, penalize, weigh
from groundup.inference.speculate import Draft
from groundup.inputs.tokenizer import Tokenizer
from groundup.nn.stack import Decoder, EncoderDecoder, recurrent
from groundup.peft.front import length

SHARED = 8  # tokens that all prompts begin with, from which reading them once pays

Finish = Literal["stop", "length", "stop_string"]
Filters = Filter | PerRow | Sequence[Filter | PerRow]


@dataclass(frozen=True)
class Answer:
    """`ids` without the one that ended it; `finish`: it ended itself, got as long as allowed, or wrote a stop text."""

    ids: list[int]
    text: str
    finish: Finish


@dataclass
class Row:
    """An answer in the making. `ids` holds the prompt first, `start` tokens of it; `fresh` are those of the last call."""

    number: int
    prompt: int
    ids: list[int]
    start: int
    adapter: str | None
    generator: torch.Generator
    filters: list[Filter] = field(default_factory=list)
    reader: Reader | None = None
    fresh: list[int] = field(default_factory=list)
    finish: Finish | None = None


class Engine:
    """Rows that wait, live and leave. `advance` makes one call and gives the rows that it changed."""

    def __init__(
        self,
        network: Decoder | EncoderDecoder,
        prompts: Sequence[list[int]],
        *,
        sampling: Sampling,
        stop_ids: frozenset[int],
        tokenizer: Tokenizer | None,
        context: int | None,
        adapters: str | None | Sequence[str | None],
        filters: Filters,
        batch: int,
        device: torch.device | str | None,
        decoder_start: int | None,
        draft: Draft | None = None,
        read: bool = False,
    ):
        two_halves = isinstance(network, EncoderDecoder)
        if sampling.stop and tokenizer is None:
            raise UsageError("stop texts need a tokenizer")
        if two_halves and decoder_start is None:
            raise UsageError("an encoder-decoder's answers begin with some id: give decoder_start")
        if batch < 1:
            raise UsageError(f"batch={batch} makes no sense; it must be 1 or more")
        if draft is not None and (two_halves or sampling.beams > 1):
            raise UsageError("a draft guesses how a decoder's text goes on: leave it out for two halves and for beams")
        if draft is not None and recurrent(network):
            raise UsageError("a recurrent model cannot take guessed tokens back: leave out draft and lookup")
        self.draft = draft
        front = length(network, adapters)
        check_lengths(prompts, sampling.max_tokens, None if two_halves or context is None else context - front)
        self.sampling, self.stop_ids, self.tokenizer = sampling, stop_ids, tokenizer
        self.prompts = [list(p) for p in prompts]
        self.read = read or bool(sampling.stop)
        self.made = [filters] if isinstance(filters, PerRow) or callable(filters) else list(filters)
        per_prompt = [adapters] * len(prompts) if adapters is None or isinstance(adapters, str) else list(adapters)
        if len(per_prompt) != len(prompts):
            raise UsageError(
                f"{len(per_prompt)} adapters for {len(prompts)} prompts: give one for each, or one for all"
            )
        self.adapters: list[str | None] = per_prompt

        order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))  # like lengths join together
        self.waiting = deque((i, k) for i in order for k in range(sampling.n))
        self.live: list[Row] = []
        self.batch = min(batch, max(1, len(self.waiting)))
        where = next(network.parameters()).device if device is None else torch.device(device)
        longest = 1 if two_halves else max((len(p) for p in prompts), default=1)
        alike = len(set(self.adapters)) == 1 and not two_halves and sampling.beams == 1
        self.shared = shared_beginning(self.prompts) if alike else 0
        rows = sampling.beams if sampling.beams > 1 else self.batch + bool(self.shared)  # its own row reads it
        self.runner = Runner(network, rows, front + longest + sampling.max_tokens, where, decoder_start)
        self.prepared = False

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.live)

    @torch.inference_mode()
    def advance(self) -> list[Row]:
        """One call of the network: prompts join if a good share of the slots is free, else every row goes on."""
        if self.sampling.beams > 1 or not self.sampling.max_tokens:
            return [self._at_once(*self.waiting.popleft())]
        free = self.batch - len(self.live)
        if self.waiting and free >= min(len(self.waiting), max(1, self.batch // 4)):
            joined, logits = self._join(free)
            self.live += joined
            changed = joined
        else:
            changed = list(self.live)
            for row in changed:
                row.fresh = []
            if self.draft is not None:
                self._check(changed, self.draft)
                self._leave()
                return changed
            logits = self.runner.go_on([r.ids[-1] for r in changed], [r.adapter for r in changed])
        for row, token in zip(changed, self._choose(changed, logits), strict=True):
            self._take(row, token)
        self._leave()
        return changed

    def _check(self, rows: Sequence[Row], draft: Draft) -> None:
        """Give each row the tokens of a draft up to the first that it would not have chosen, and that one."""
        rooms = [self.sampling.max_tokens - (len(r.ids) - r.start) - 1 for r in rows]
        guesses = [draft.propose(r.number, r.ids, n)[:n] if n else [] for r, n in zip(rows, rooms, strict=True)]
        read = [[r.ids[-1], *guess] for r, guess in zip(rows, guesses, strict=True)]
        scores = self.runner.check(read, [r.adapter for r in rows])
        for place, (row, guess, each) in enumerate(zip(rows, guesses, scores, strict=True)):
            kept = 0
            for i in range(len(guess) + 1):
                (token,) = self._choose([row], each[i : i + 1])
                self._take(row, token)
                if row.finish is not None or i == len(guess) or token != guess[i]:
                    break
                kept += 1
            self.runner.cache.rollback(place, len(guess) - kept)

    def answer_of(self, row: Row) -> Answer:
        """What a row that is done has said."""
        assert row.finish is not None
        ids = row.ids[row.start :]
        if row.reader is not None:
            text = row.reader.text
        else:
            text = "" if self.tokenizer is None else self.tokenizer.decode(ids)
        return Answer(ids, text, row.finish)

    # --- joining and leaving ------------------------------------------------------------------------------------------

    def _join(self, free: int) -> tuple[list[Row], Float[Tensor, "B V"]]:
        """Read as many of the waiting prompts as one call may; answers to one prompt read it once."""
        cache, first = self.runner.cache, len(self.live)
        if self.shared and not self.prepared:
            self.runner.join([self.prompts[0][: self.shared]], [self.batch], self.adapters[:1])
            self.prepared = True
        group: dict[int, list[int]] = {}  # prompt -> which of its answers
        tokens = taken = 0
        while self.waiting and taken < free:
            prompt, k = self.waiting[0]
            if prompt not in group:
                tokens += len(self.prompts[prompt]) - self.shared
                if group and tokens > PREFILL:
                    break
            group.setdefault(prompt, []).append(k)
            self.waiting.popleft()
            taken += 1

        slots = range(first, first + len(group))
        if self.shared:
            cache.copy(self.batch, slots)
        parts = [self.prompts[p][self.shared :] for p in group]
        logits = self.runner.join(parts, slots, [self.adapters[p] for p in group])
        rows = [self._row(p, ks[0]) for p, ks in group.items()]
        origin = list(range(len(group)))
        for place, (prompt, ks) in enumerate(group.items()):
            twins = range(first + len(rows), first + len(rows) + len(ks) - 1)
            if twins:
                cache.copy(first + place, twins)
            rows += [self._row(prompt, k) for k in ks[1:]]
            origin += [place] * len(twins)
        return rows, logits if len(rows) == len(group) else logits[origin]

    def _leave(self) -> None:
        """Take out the rows that are done; the last live row moves into the hole."""
        for place in reversed(range(len(self.live))):
            if self.live[place].finish is None:
                continue
            if self.draft is not None:
                self.draft.forget(self.live[place].number)
            last = self.live.pop()
            if place < len(self.live):
                self.live[place] = last
                self.runner.cache.move(len(self.live), place)
            else:
                self.runner.cache.free(place)

    def _row(self, prompt: int, k: int) -> Row:
        start = self.runner.start
        ids = [start] if self.runner.two_halves and start is not None else list(self.prompts[prompt])
        filters = [f.start() if isinstance(f, PerRow) else f for f in self.made]
        reader = Reader(self.tokenizer, self.sampling.stop) if self.read and self.tokenizer is not None else None
        number = prompt * self.sampling.n + k
        generator = seeded(self.sampling.seed, k)
        return Row(number, prompt, ids, len(ids), self.adapters[prompt], generator, filters, reader)

    # --- one token ----------------------------------------------------------------------------------------------------

    @threads(1)  # a few rows: sharing them out costs more than it saves, and holds up the next step
    def _choose(self, rows: Sequence[Row], logits: Float[Tensor, "B V"]) -> list[int]:
        s = self.sampling
        if s.repetition_penalty not in (None, 1.0) or self.made:
            logits = torch.stack([self._filtered(r, scores) for r, scores in zip(rows, logits, strict=True)])
        best = likeliest(logits)
        for _, score in best:
            if score == -math.inf:
                raise UsageError("the filters left no token to choose from: one of them forbids everything here")
            if not math.isfinite(score):
                raise GroundupError("the model's scores are no numbers any more; try --precision float32")
        if s.greedy:
            return [token for token, _ in best]
        return draw(weigh(logits, s), [r.generator for r in rows]).tolist()

    def _filtered(self, row: Row, scores: Float[Tensor, "V"]) -> Float[Tensor, "V"]:
        penalty = self.sampling.repetition_penalty
        if penalty is not None and penalty != 1.0:
            scores = penalize(scores, row.ids, penalty)
        for made in row.filters:
            scores = made(row.ids, scores, row.number)
        return scores

    def _take(self, row: Row, token: int) -> None:
        """Give a row its next token, and see whether it is done."""
        if token in self.stop_ids:
            row.finish = "stop"
        else:
            row.ids.append(token)
            row.fresh.append(token)
            if row.reader is not None and row.reader.push(token):
                row.finish = "stop_string"
            elif len(row.ids) - row.start >= self.sampling.max_tokens:
                row.finish = "length"
        if row.finish is not None and row.reader is not None and row.reader.end():
            row.finish = "stop_string"

    def _at_once(self, prompt: int, k: int) -> Row:
        """Answers that do not grow token by token: a beam search, or no token at all."""
        row = self._row(prompt, k)
        row.finish = "length"
        if self.sampling.max_tokens:
            if row.filters:
                raise UsageError("beam search takes no filters and no schema: use beams=1")
            prompt_ids = self.prompts[prompt]
            found, ended = search(self.runner, prompt_ids, self.sampling, self.stop_ids, row.adapter)
            row.finish = "stop" if ended else "length"
            for token in found:
                row.ids.append(token)
                if row.reader is not None and row.reader.push(token):
                    break
        if row.reader is not None and row.reader.end():
            row.finish = "stop_string"
        return row


def check_lengths(prompts: Sequence[Sequence[int]], max_tokens: int, context: int | None) -> None:
    """UsageError for a prompt that holds nothing, or that does not fit the context together with its answer."""
    for i, prompt in enumerate(prompts):
        name = "the prompt" if len(prompts) == 1 else f"prompt {i + 1} of {len(prompts)}"
        if not prompt:
            raise UsageError(f"{name} holds no tokens; give it some text")
        if context is not None and len(prompt) + max_tokens > context:
            left = context - len(prompt)
            way = f"use max_tokens={left} or less" if left > 0 else f"shorten it by {1 - left:,} tokens or more"
            raise UsageError(
                f"{name} has {len(prompt):,} tokens, and {max_tokens:,} more (max_tokens) make "
                f"{len(prompt) + max_tokens:,}: this model's context is {context:,}. Try this: {way}."
            )


def shared_beginning(prompts: Sequence[list[int]]) -> int:
    """How many tokens all of several prompts begin with (0 if few); one of each is left to be read by its own row."""
    if len(prompts) < 2:
        return 0
    pairs = enumerate(zip(min(prompts), max(prompts), strict=False))  # the first and the last in order differ first
    common = next((place for place, (a, b) in pairs if a != b), len(min(prompts)))
    common = min(common, min(len(p) for p in prompts) - 1)
    return common if common >= SHARED else 0


def seeded(seed: int | None, k: int) -> torch.Generator:
    """The source of chance of a prompt's answer number k, the same wherever the prompt stands."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        digest = hashlib.blake2b(f"{seed} {k}".encode(), digest_size=6).digest()
        generator.manual_seed(int.from_bytes(digest, "big"))
    return generator
