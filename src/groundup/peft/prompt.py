"""Prompt tuning: P learned vectors in front of the embedded input (Lester et al., arXiv 2104.08691).

They begin as random numbers, as the vectors of common words, or as those of a text (section 3.2). P · D numbers are
trained, whatever the model's size. In an encoder-decoder they stand before the encoder's input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from groundup.core.errors import GroundupError, UsageError
from groundup.core.rules import Rules
from groundup.nn.stack import EncoderDecoder
from groundup.nn.surgery import shared
from groundup.peft.front import Front, fronts, put_front
from groundup.peft.method import FRONT_PREFIX, Encode, Method, Net, refuse_settings

COMMON = 5000  # words among which the start is drawn: a tokenizer's first ids are its commonest


class SoftPrompt(Front):
    """The vectors [P, D]; near: those of a text that training holds them to."""

    def __init__(self, prompt: Tensor, near: Tensor | None = None):
        super().__init__()
        self.prompt = nn.Parameter(prompt)
        self.tokens = len(prompt)
        self.near: Tensor | None
        self.register_buffer("near", near, persistent=False)

    def vectors(self) -> Float[Tensor, "P D"]:
        return self.prompt


@dataclass(frozen=True)
class Prompt(Method):
    """Prompt tuning (arXiv 2104.08691)."""

    kind: ClassVar[str] = "prompt"
    peft_type: ClassVar[str] = "PROMPT_TUNING"
    learning_rate: ClassVar[float] = 3e-2
    head_prefix: ClassVar[str] = FRONT_PREFIX

    length: int = 20
    """How many vectors stand before every row."""

    init: Literal["random", "vocabulary", "text"] = "random"
    """They start at random, as common words drawn from the vocabulary, or as the words of --text."""

    text: str = ""
    """The text that they start as, repeated or cut to their number."""

    near: str = ""
    """A text that they stay near, repeated or cut to their number, whatever they do (arXiv 2112.08348)."""

    gamma: float = 0.0
    """The weight of their mean squared distance to --near beside the loss (0.01 in the paper)."""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise UsageError(f"length {self.length}: a prompt needs at least 1 vector")
        if self.init not in ("random", "vocabulary", "text"):
            raise UsageError(f"init {self.init!r}: there are random, vocabulary and text")
        if (self.init == "text") != bool(self.text):
            raise UsageError("init text and a text belong together: give both or neither")
        if self.gamma < 0 or bool(self.gamma) != bool(self.near):
            raise UsageError("near and a gamma above 0 belong together: give both or neither")

    def add(self, network: Net, name: str, *, seed: int = 0, encode: Encode | None = None) -> Net:
        network = shared(network)
        generator = torch.Generator().manual_seed(seed)
        table = words(network)
        entries, width = table.shape
        if self.init == "random":
            prompt = torch.empty(self.length, width).uniform_(-0.5, 0.5, generator=generator)
        elif self.init == "vocabulary":
            drawn = torch.randperm(min(COMMON, entries), generator=generator)
            prompt = fitted(table[drawn[: self.length]], self.length).float().clone()
        else:
            prompt = self._spelled(self.text, table, encode)
        place(network, name, SoftPrompt(prompt, self._spelled(self.near, table, encode) if self.near else None))
        return network

    def _spelled(self, text: str, table: Tensor, encode: Encode | None) -> Float[Tensor, "P D"]:
        """The vectors of a text's tokens."""
        if encode is None:
            raise UsageError("a prompt of words needs a tokenizer, and this model has none")
        ids = encode(text)
        if not ids:
            raise UsageError(f"the text {text!r} has no tokens, so no vectors")
        return fitted(table[torch.tensor(ids)], self.length).float().clone()

    def begin_as(self, network: nn.Module, name: str, held: Mapping[str, Tensor]) -> None:
        """A source prompt, repeated or cut to this one's length (SPoT, arXiv 2110.07904)."""
        (vectors,) = held.values()
        front = fronts(network)[name]
        assert isinstance(front, SoftPrompt)
        front.prompt.data.copy_(fitted(vectors, self.length))

    def penalty(self, network: nn.Module, name: str) -> Float[Tensor, ""] | None:
        """gamma / P · Σ |p - e|², e: the vectors of `near` (Khashabi et al., arXiv 2112.08348, section 3)."""
        front = fronts(network)[name]
        assert isinstance(front, SoftPrompt)
        return None if front.near is None else self.gamma * (front.prompt - front.near).square().sum(1).mean()

    def written(self, network: nn.Module, name: str, rules: Rules) -> tuple[dict[str, Any], dict[str, Tensor]]:
        prompt = fronts(network)[name].vectors()
        assert prompt is not None
        config = {
            "num_virtual_tokens": len(prompt),
            "token_dim": prompt.shape[1],
            "num_transformer_submodules": 1,
            "num_layers": 1,
            "num_attention_heads": 1,
            "prompt_tuning_init": "RANDOM",
        }
        return config, {"prompt_embeddings": prompt.detach()}

    @classmethod
    def combined(
        cls, network: nn.Module, weights: Mapping[str, float], name: str, *, rank: int | None = None
    ) -> Prompt:
        """Σ w_i P_i of prompts of one length (the weighted average of arXiv 2110.07904, section 3.2)."""
        if rank is not None:
            raise UsageError("combine: prompts have no rank; leave it out")
        held = {each: fronts(network)[each].vectors() for each in weights}
        lengths = {each: len(p) for each, p in held.items() if p is not None}
        if len(set(lengths.values())) > 1:
            said = ", ".join(f"{each} {n}" for each, n in lengths.items())
            raise UsageError(f"combine: prompts of one length are summed; these have {said} vectors")
        total = torch.stack(
            [w * p.detach() for w, p in zip(weights.values(), held.values(), strict=True) if p is not None]
        )
        place(network, name, SoftPrompt(total.sum(0)).requires_grad_(False))
        return cls(length=total.shape[1])

    @classmethod
    def read(
        cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor], network: nn.Module, name: str, rules: Rules
    ) -> Prompt:
        known = {
            "num_virtual_tokens", "token_dim", "num_layers", "num_attention_heads", "num_transformer_submodules",
            "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs",
        }  # fmt: skip
        refuse_settings(config, known, {"modules_to_save": (None, [])})
        prompt = only(tensors, "prompt_embeddings")
        length, width = int(config["num_virtual_tokens"]), words(network).shape[1]
        if isinstance(network, EncoderDecoder) and len(prompt) == 2 * length:
            prompt = prompt[:length]  # PEFT keeps as many for the decoder, which nothing reads
        if tuple(prompt.shape) != (length, width):
            raise GroundupError(
                f"the prompt is {tuple(prompt.shape)}, its settings and this model want {(length, width)}: another base"
            )
        place(network, name, SoftPrompt(prompt.clone()).requires_grad_(False))
        return cls(length=length)


def fitted(vectors: Float[Tensor, "n D"], length: int) -> Float[Tensor, "P D"]:
    """So many vectors: these over and over, cut at the end."""
    return vectors.repeat(-(-length // len(vectors)), 1)[:length]


def words(network: nn.Module) -> Tensor:
    """The table of word vectors [V, D] that stands before the first block."""
    stack: Any = network.encoder if isinstance(network, EncoderDecoder) else network
    table: Tensor = stack.embed.tokens.weight.dense()
    return table


def place(network: nn.Module, name: str, front: Front) -> None:
    """Put a front on this network. UsageError where the name is taken."""
    if name in fronts(network):
        raise UsageError(f"an adapter {name!r} stands before the rows already; give the new one another name")
    put_front(network, name, front)


def only(tensors: Mapping[str, Tensor], key: str) -> Tensor:
    """The one tensor that a file of this kind holds."""
    if set(tensors) != {key}:
        raise GroundupError(f"the file holds {', '.join(sorted(tensors)[:4])}; it should hold {key} alone")
    return tensors[key]
