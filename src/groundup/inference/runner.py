"""Calls to a network whose rows sit in a cache: joining with a prompt, and going on token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from groundup.core.errors import UsageError
from groundup.inference.lowered import Lowered
from groundup.nn.cache import Fresh, Slots
from groundup.nn.stack import Decoder, Encoder, EncoderDecoder
from groundup.nn.step import Memory
from groundup.peft.front import lay, length

PREFILL = 2048  # tokens of a call that reads prompts, at most: what it needs of memory grows with them

Adapters = Sequence[str | None]


class Runner:
    """A network with the cache of its rows.

    rows    of the cache; limit: the longest row that can come, to which the cache grows as rows get longer
    start   the id with which an encoder-decoder's answers begin
    """

    def __init__(
        self, network: Decoder | EncoderDecoder, rows: int, limit: int, device: torch.device, start: int | None = None
    ):
        if isinstance(network, Encoder):
            raise UsageError("this model sees both ways and writes no text; use a decoder or an encoder-decoder")
        self.network, self.limit, self.device, self.start = network, limit, device, start
        self.cache = Slots(rows, 0)
        self.lowered = Lowered.of(network)

    @property
    def two_halves(self) -> bool:
        """The encoder reads the prompt, and the decoder's rows begin with `start`."""
        return isinstance(self.network, EncoderDecoder)

    def join(self, prompts: Sequence[list[int]], slots: Sequence[int], adapters: Adapters) -> Float[Tensor, "B V"]:
        """Read prompts into rows, behind what these hold already; the scores of what follows each."""
        if isinstance(self.network, EncoderDecoder):
            ids, step, _ = lay(self.network, prompts, Fresh(), adapters=adapters, half="encoder", device=self.device)
            memory = self.network.encode(ids, step)
            assert self.start is not None
            return self._call([[self.start]] * len(prompts), slots, adapters, memory)
        for begin in range(0, max(len(p) for p in prompts) - PREFILL, PREFILL):  # a very long one comes alone
            assert len(prompts) == 1
            self._call([prompts[0][begin : begin + PREFILL]], slots, adapters)
        return self._call([p[_read(len(p)) :] for p in prompts], slots, adapters)

    def go_on(self, ids: Sequence[int], adapters: Adapters) -> Float[Tensor, "B V"]:
        """One more token for each of the first rows of the cache; the scores of what follows."""
        return self._call([[i] for i in ids], range(len(ids)), adapters)

    def check(self, rows: Sequence[list[int]], adapters: Adapters) -> list[Float[Tensor, "L V"]]:
        """Some more tokens for each of the first rows of the cache; the scores of what follows each token."""
        scores = self._call(rows, range(len(rows)), adapters, every=True)
        return list(scores.split([len(row) for row in rows]))

    def _call(
        self,
        rows: Sequence[list[int]],
        slots: Sequence[int],
        adapters: Adapters,
        memory: Memory | None = None,
        every: bool = False,
    ) -> Float[Tensor, "N V"]:
        """The scores behind each row's last token, or behind `every` token."""
        begun = self.cache.begins(slots)
        front = length(self.network, adapters) if any(begun) else 0
        needed = front + max(self.cache.length[s] + len(r) for s, r in zip(slots, rows, strict=True))
        if needed > self.cache.capacity:
            self.cache.grow(max(needed, min(self.limit, needed + needed // 2 + 64)))
        half: Literal["whole", "decoder"] = "decoder" if self.two_halves else "whole"
        ids, step, _ = lay(
            self.network, rows, self.cache, slots=slots, adapters=adapters, memory=memory, half=half, device=self.device
        )
        last = None
        if step.rows.total > len(rows) and not every:
            last = torch.tensor([end - 1 for end in step.rows.starts[1:]], device=self.device)
        if self.lowered is not None and not every and self.lowered.takes(step):
            logits = self.lowered(ids, step)
        else:
            logits = self.network(ids, step, last)
        self.cache.advance(step)
        return logits.float()


def _read(length: int) -> int:
    """Tokens of a long prompt that earlier calls have read."""
    return max(0, (length - 1) // PREFILL) * PREFILL
