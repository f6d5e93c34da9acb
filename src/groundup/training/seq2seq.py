"""Sequence to sequence: the encoder reads the prompt, the decoder learns the completion and where it ends.

encoder     p p p p </s>
decoder     <start> c c c          what it reads (teacher forcing)
learned        c    c c </s>       what it shall say after each
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from groundup.core.errors import UsageError
from groundup.data.encode import EncodedRows, encode_all, prompt_of, reference_of, tools_of
from groundup.data.kinds import Row
from groundup.data.rows import Dataset
from groundup.inputs.tokenizer import Encoded, Tokenizer
from groundup.nn.cache import Fresh
from groundup.nn.experts import evened, watched
from groundup.nn.stack import EncoderDecoder
from groundup.peft.front import lay
from groundup.training.objective import Objective, scored


@dataclass(frozen=True)
class Pair(Encoded):
    """What is read and what shall be said, end to end: the first `read` ids are the prompt's."""

    read: int

    @property
    def prompt(self) -> list[int]:
        return self.ids[: self.read]

    @property
    def completion(self) -> list[int]:
        """With the token that ends it."""
        return self.ids[self.read :]


def seq2seq(start: int, *, smoothing: float = 0.0) -> Objective:
    """The objective for an encoder-decoder whose answers begin with the id `start`.

    smoothing  as in `scored`, in training alone
    """
    loss = partial(seq2seq_loss, start=start, smoothing=smoothing)
    return Objective("seq2seq", encode_pairs, loss, lambda row: len(row.ids) - row.read)


def encode_pairs(dataset: Dataset, tokenizer: Tokenizer, max_tokens: int) -> EncodedRows:
    """All rows as `Pair`s; `max_tokens` counts prompt and completion."""
    return encode_all(dataset, tokenizer, max_tokens, each=pair)


def pair(row: Row, tokenizer: Tokenizer) -> Pair:
    """One row: the prompt as the model will be asked it, the last answer, the end. UsageError where one is missing."""
    if tokenizer.eos_id is None:
        raise UsageError("The tokenizer names no end-of-text token, so a completion could not learn where to end.")
    asked = prompt_of(row, tokenizer)
    prompt = tokenizer.encode(asked) if isinstance(asked, str) else tokenizer.chat(asked, tools=tools_of(row))
    completion = [*tokenizer.encode(reference_of(row), special=False), tokenizer.eos_id]
    return Pair(prompt + completion, [False] * len(prompt) + [True] * len(completion), len(prompt))


def seq2seq_loss(
    network: EncoderDecoder,
    rows: Sequence[Pair],
    *,
    start: int,
    smoothing: float = 0.0,
    adapter: str | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Float[Tensor, ""], int]:
    """The summed negative log-probability (in nats) of the completions of these rows, and of how many tokens."""
    ids, step, _ = lay(network, [r.prompt for r in rows], Fresh(), adapters=adapter, half="encoder", device=device)
    encoding = watched(network, step)
    memory = network.encode(ids, encoding)
    read = [[start, *r.completion[:-1]] for r in rows]
    ids, step, _ = lay(network, read, Fresh(), adapters=adapter, memory=memory, half="decoder", device=device)
    step = watched(network, step)
    x = network.decoder.run(ids, step)  # nothing but keys stands before a decoder's row: every place is its own
    if network.head_scale != 1.0:
        x = x * network.head_scale
    wanted = torch.tensor([id for r in rows for id in r.completion], device=device)
    more = evened(network, encoding) + evened(network, step)
    return scored(network.head, x, wanted, step, smoothing if network.training else 0.0) + len(wanted) * more, len(
        wanted
    )
