"""What happens inside a model while it reads a text: attention, hidden states, and the logit lens.

The model runs as it always does, with a `Step` that asks its parts to leave what they compute (`groundup.nn.step.Taps`):
there is no second forward pass that could differ from the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from groundup.core.errors import UsageError
from groundup.model import Model
from groundup.nn.attention import Attention
from groundup.nn.cache import Fresh
from groundup.nn.stack import EncoderDecoder, Stack
from groundup.nn.step import Memory, Step, Taps
from groundup.peft.front import lay

Text = str | Sequence[Mapping[str, Any]] | Sequence[int]  # a text, a conversation, or token ids
Half = Literal["whole", "encoder", "decoder"]


@dataclass(frozen=True)
class Map:
    """How much each token takes of each other in one attention.

    path     where the attention stands, e.g. `blocks.3.attn`; layer and part say it apart: 3, `attn`
    weights  [H, L, S]; a line sums to 1 over the keys
    queries  the L tokens that look; keys: the S that are looked at (a prefix and the encoder's tokens among them)
    """

    path: str
    layer: int
    part: str
    weights: Float[Tensor, "H L S"]
    queries: list[str]
    keys: list[str]


@dataclass(frozen=True)
class State:
    """What a part gave for each of L tokens: x [L, D]. `path`: `embed`, `blocks.0` ..., `norm` (of a half, `encoder.` in
    front)."""

    path: str
    tokens: list[str]
    x: Float[Tensor, "L D"]


@dataclass(frozen=True)
class Lens:
    """What each layer would say next, if the head read its hidden states.

    tokens       the L tokens that were read
    layers       N names, the embedding first, the model's own answer last
    ids          the likeliest tokens of each layer after each token, and their `words` and `probability`
    rank         where the model's own first choice stands in each layer (1: it is its first choice too)
    """

    tokens: list[str]
    layers: list[str]
    ids: Int[Tensor, "N L top"]
    words: list[list[list[str]]]
    probability: Float[Tensor, "N L top"]
    rank: Int[Tensor, "N L"]


def attention(model: Model, text: Text, *, answer: str | Sequence[int] = "") -> list[Map]:
    """All attention of one reading, layer by layer. An encoder-decoder's decoder reads its start token and `answer`.

    UsageError for a model without attention.
    """
    weights: dict[str, Tensor] = {}
    read = _read(model, text, answer, Taps(weights=weights))
    if not weights:
        raise UsageError(f"a {model.config.family()} has no attention to look at; look at its states, or its lens")
    return [_map(model, read, path, seen[0]) for path, seen in weights.items()]


def states(model: Model, text: Text, *, answer: str | Sequence[int] = "") -> list[State]:
    """The hidden states after the embedding, after each block, and after the last norm where there is one."""
    kept: dict[str, Tensor] = {}
    read = _read(model, text, answer, Taps(states=kept))
    return [State(path, read.tokens(path), x) for path, x in kept.items()]


def layer_logits(
    model: Model, text: Text, *, answer: str | Sequence[int] = ""
) -> Iterator[tuple[str, Float[Tensor, "L V"]]]:
    """(layer, logits) of each layer's hidden states through the last norm and the head (nostalgebraist, 2020).

    The last one is the model's own answer, to the bit. Raises UsageError where the model has no head.
    """
    heard = _heard(model, text, answer)
    yield from ((layer, heard.logits(layer)) for layer in heard.layers)


def logit_lens(model: Model, text: Text, *, answer: str | Sequence[int] = "", top: int = 1) -> Lens:
    """What each layer would say next: of `layer_logits`, the `top` likeliest words."""
    if top < 1:
        raise UsageError(f"top={top} makes no sense: it must be 1 or more")
    heard = _heard(model, text, answer)
    choice = heard.logits(heard.layers[-1]).argmax(-1, keepdim=True)
    ids, shares, ranks = [], [], []
    for layer in heard.layers:
        logits = heard.logits(layer)
        best = logits.softmax(-1).topk(min(top, logits.shape[1]))
        ids.append(best.indices)
        shares.append(best.values)
        ranks.append((logits > logits.gather(1, choice)).sum(-1) + 1)
    words = [[model.pieces(place) for place in layer.tolist()] for layer in ids]
    return Lens(heard.tokens, heard.layers, torch.stack(ids), words, torch.stack(shares), torch.stack(ranks))


# --- one reading ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Read:
    """The step in which the text (or the answer) was read, and the tokens of each half by how its paths begin."""

    step: Step
    halves: dict[str, list[str]]

    def tokens(self, path: str) -> list[str]:
        return next(tokens for half, tokens in self.halves.items() if path.startswith(half))


@torch.no_grad()
def _read(model: Model, text: Text, answer: str | Sequence[int], taps: Taps) -> _Read:
    network, ids = model.network, _ids(model, text)
    if isinstance(network, EncoderDecoder):
        source, memory = _run(model, network.encoder, ids, taps, "encoder")
        after = [model.decoder_start, *_ids(model, answer, special=False)] if answer else [model.decoder_start]
        target, last = _run(model, network.decoder, after, taps, "decoder", memory)
        return _Read(last.step, {"encoder.": source, "decoder.": target})
    if answer:
        raise UsageError("only an encoder-decoder reads an answer beside the text: put it behind the text")
    tokens, last = _run(model, network, ids, taps, "whole")
    return _Read(last.step, {"": tokens})


def _run(
    model: Model, stack: Stack, row: list[int], taps: Taps, half: Half, memory: Memory | None = None
) -> tuple[list[str], Memory]:
    """The names of the tokens of one row, and what the stack made of them."""
    how: dict[str, Any] = {"adapters": model.adapter, "memory": memory, "half": half, "device": model.device}
    ids, step, own = lay(model.network, [row], Fresh(), **how)
    step = replace(step, taps=taps)
    return [*_numbered("soft", own[0]), *model.pieces(row)], Memory(stack.run(ids, step), step)


def _ids(model: Model, text: Text, *, special: bool = True) -> list[int]:
    if not isinstance(text, str) and all(isinstance(one, int) for one in text):
        ids = [int(one) for one in cast(Sequence[int], text)]
    elif special or model.tokenizer is None:
        ids = model.encode(cast(Any, text))
    else:
        ids = model.tokenizer.encode(cast(str, text), special=False)
    if not ids:
        raise UsageError("there are no tokens to look at: give a text")
    model.refuse_longer([ids])
    return ids


def _map(model: Model, read: _Read, path: str, weights: Float[Tensor, "H L S"]) -> Map:
    own, _, aside = path.partition(":")
    names = own.split(".")
    at = names.index("blocks")
    queries = read.tokens(path)
    if aside:
        keys = _numbered("beside", weights.shape[2])
    else:
        part = model.network.get_submodule(own)
        assert isinstance(part, Attention)
        known = read.tokens("encoder.") if part.cross else queries
        keys = [*_numbered("prefix", weights.shape[2] - len(known)), *known]
    part_name = ".".join([*names[:at], *names[at + 2 :]]) + (f":{aside}" if aside else "")
    return Map(path, int(names[at + 1]), part_name, weights, queries, keys)


def _numbered(what: str, count: int) -> list[str]:
    """Names of what is no token of the text."""
    return [f"({what} {i + 1})" for i in range(count)]


@dataclass(frozen=True)
class _Heard:
    """The hidden states of each layer, and the way from there to words."""

    model: Model
    step: Step
    tokens: list[str]
    states: dict[str, Tensor]

    @property
    def layers(self) -> list[str]:
        return list(self.states)

    @torch.no_grad()
    def logits(self, layer: str) -> Float[Tensor, "L V"]:
        network = self.model.network
        norm = network.decoder.norm if isinstance(network, EncoderDecoder) else network.norm
        x = self.states[layer] if norm is None else norm(self.states[layer], self.step)
        if isinstance(network, EncoderDecoder) and network.head_scale != 1.0:
            x = x * network.head_scale
        assert network.head is not None
        return network.head(x, self.step).float()


def _heard(model: Model, text: Text, answer: str | Sequence[int]) -> _Heard:
    if model.network.head is None:
        raise UsageError(f"the file of {model.origin.name} holds no head, so no layer can say a word")
    kept: dict[str, Tensor] = {}
    read = _read(model, text, answer, Taps(states=kept))
    half = "decoder." if isinstance(model.network, EncoderDecoder) else ""
    layers = {path.removeprefix(half): x for path, x in kept.items() if path.startswith(half)}
    layers.pop("norm", None)
    return _Heard(model, read.step, read.tokens(half), layers)
