"""Mixtures of soft prompts: several prompts ask the same, and their answers are weighted (Qin & Eisner, arXiv 2104.06599).

    p(y | x) = Σ_k w_k · p(y | prompt_k, x),   w = softmax(weights)                                       (section 3.3)

Training moves the prompts and the weights together; so does the gradient of -log p(y | x), which is that of EM: each
prompt learns a row in proportion to its share in explaining it. `name~k` is prompt k alone; where one next token is
asked for, as in `generate`, the heaviest prompt answers. PEFT has no such method: the file is ours, in PEFT's form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from groundup.core.errors import GroundupError, UsageError
from groundup.core.rules import Rules
from groundup.nn.surgery import shared
from groundup.peft.front import PART, Front, fronts
from groundup.peft.method import FRONT_PREFIX, Encode, Method, Net, refuse_settings
from groundup.peft.prompt import place, words


class Alone(Front):
    """One prompt of a mixture, whose numbers [P, D] the mixture holds."""

    def __init__(self, prompt: Tensor):
        super().__init__()
        self.prompt, self.tokens = prompt, len(prompt)

    def vectors(self) -> Float[Tensor, "P D"]:
        return self.prompt


class MixedPrompts(Front):
    """The vectors [K, P, D] and the logarithms of their weights [K], up to a constant."""

    def __init__(self, prompts: Tensor, weights: Tensor):
        super().__init__()
        self.prompts, self.weights = nn.Parameter(prompts), nn.Parameter(weights)
        self.tokens = prompts.shape[1]

    def vectors(self) -> Float[Tensor, "P D"]:
        return self.prompts[int(self.weights.argmax())]

    def part(self, number: str) -> Front:
        if number not in map(str, range(len(self.weights))):
            raise UsageError(f"no prompt {number!r} in this mixture: they are 0 to {len(self.weights) - 1}")
        return Alone(self.prompts[int(number)])


@dataclass(frozen=True)
class PromptMixture(Method):
    """A mixture of soft prompts (arXiv 2104.06599)."""

    kind: ClassVar[str] = "prompt-mixture"
    peft_type: ClassVar[str] = "GROUNDUP_PROMPT_MIXTURE"
    learning_rate: ClassVar[float] = 3e-2
    head_prefix: ClassVar[str] = FRONT_PREFIX
    objective: ClassVar[str | None] = "causal"

    count: int = 4
    """How many prompts."""

    length: int = 8
    """How many vectors each has."""

    def __post_init__(self) -> None:
        if self.count < 2 or self.length < 1:
            raise UsageError(
                f"count {self.count}, length {self.length}: a mixture has 2 prompts or more, of 1 vector or more"
            )

    def add(self, network: Net, name: str, *, seed: int = 0, encode: Encode | None = None) -> Net:
        """Vectors drawn with the mean and variance of the vocabulary's (section 3.4), equal weights."""
        network = shared(network)
        table = words(network).float()
        drawn = torch.randn(self.count, self.length, table.shape[1], generator=torch.Generator().manual_seed(seed))
        place(network, name, MixedPrompts(table.mean(0).cpu() + table.std(0).cpu() * drawn, torch.zeros(self.count)))
        return network

    def written(self, network: nn.Module, name: str, rules: Rules) -> tuple[dict[str, Any], dict[str, Tensor]]:
        held = fronts(network)[name]
        assert isinstance(held, MixedPrompts)
        tensors = {"prompt_embeddings": held.prompts.detach(), "weights": held.weights.detach()}
        return {"num_prompts": self.count, "num_virtual_tokens": self.length}, tensors

    @classmethod
    def read(
        cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor], network: nn.Module, name: str, rules: Rules
    ) -> PromptMixture:
        refuse_settings(config, {"num_prompts", "num_virtual_tokens"}, {})
        made = cls(int(config["num_prompts"]), int(config["num_virtual_tokens"]))
        wanted = {"prompt_embeddings": (made.count, made.length, words(network).shape[1]), "weights": (made.count,)}
        found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
        if found != wanted:
            raise GroundupError(
                f"the mixture's file holds {found}, its settings and this model want {wanted}: another base"
            )
        front = MixedPrompts(tensors["prompt_embeddings"].clone(), tensors["weights"].clone())
        place(network, name, front.requires_grad_(False))
        return made


def mixture(network: nn.Module, adapter: str | None) -> tuple[list[str], Float[Tensor, " K"]] | None:
    """The names of the prompts that a row of this adapter mixes, and the logarithms of their weights; None for others."""
    front = fronts(network).get(adapter or "")
    if not isinstance(front, MixedPrompts):
        return None
    return [f"{adapter}{PART}{k}" for k in range(len(front.weights))], front.weights.log_softmax(0)
