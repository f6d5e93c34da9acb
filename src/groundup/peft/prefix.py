"""Prefix tuning: P learned keys and values before every row, at every layer (Li & Liang, arXiv 2101.00190).

With `hidden`, training goes through an MLP, [P, hidden] -> tanh -> every layer's keys and values (section 4.3), which
is folded when the adapter is saved: the file holds P · 2 · layers · kv_heads · head_dim numbers. In an encoder-decoder
the prefix stands before the decoder's self-attention.

    prompt_embeddings  [P, layers · 2 · kv_heads · head_dim]     PEFT's order: layer, key or value, head, number
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from groundup.core.errors import GroundupError, UsageError
from groundup.core.rules import Rules
from groundup.nn.attention import Attention
from groundup.nn.stack import EncoderDecoder
from groundup.nn.surgery import shared
from groundup.peft.front import Front, Keys, fronts
from groundup.peft.method import FRONT_PREFIX, Encode, Method, Net, refuse_settings
from groundup.peft.prompt import only, place


class Prefix(Front):
    """Keys and values of every layer, [P, N] all in one; or what an MLP makes them of.

    shapes: (kv_heads, head_dim) of each attention, by its path
    """

    def __init__(self, start: Tensor, shapes: Mapping[str, tuple[int, int]], *layers: Tensor):
        super().__init__()
        self.start = nn.Parameter(start)
        self.layers = nn.ParameterList(nn.Parameter(t) for t in layers)
        self.shapes = dict(shapes)
        self.tokens = len(start)

    def flat(self) -> Float[Tensor, "P N"]:
        """All keys and values, the MLP applied."""
        if not len(self.layers):
            return self.start
        first, first_bias, second, second_bias = self.layers
        return F.linear(torch.tanh(F.linear(self.start, first, first_bias)), second, second_bias)

    def keys(self) -> Keys:
        sizes = [2 * heads * dim for heads, dim in self.shapes.values()]
        found = {}
        for (path, (heads, dim)), both in zip(self.shapes.items(), self.flat().split(sizes, dim=1), strict=True):
            k, v = both.unflatten(1, (2, heads, dim)).unbind(1)
            found[path] = (k, v)
        return found


@dataclass(frozen=True)
class PrefixTuning(Method):
    """Prefix tuning (arXiv 2101.00190)."""

    kind: ClassVar[str] = "prefix"
    peft_type: ClassVar[str] = "PREFIX_TUNING"
    learning_rate: ClassVar[float] = 1e-2
    head_prefix: ClassVar[str] = FRONT_PREFIX

    length: int = 20
    """How many keys and values stand before every row, at every layer."""

    hidden: int = 0
    """Train through an MLP of this inner width; 0 trains keys and values as they are."""

    def __post_init__(self) -> None:
        if self.length < 1 or self.hidden < 0:
            raise UsageError(f"length {self.length}, hidden {self.hidden}: give at least 1, and 0 or more")

    def add(self, network: Net, name: str, *, seed: int = 0, encode: Encode | None = None) -> Net:
        network = shared(network)
        generator = torch.Generator().manual_seed(seed)
        shapes = places(network)
        total = sum(2 * heads * dim for heads, dim in shapes.values())

        def drawn(*size: int, std: float = 0.02) -> Tensor:
            return torch.randn(*size, generator=generator) * std

        if self.hidden:
            width = total // (2 * len(shapes))
            start = drawn(self.length, width, std=1.0)
            mlp = (
                drawn(self.hidden, width, std=width**-0.5),
                torch.zeros(self.hidden),
                drawn(total, self.hidden, std=self.hidden**-0.5),
                torch.zeros(total),
            )
            place(network, name, Prefix(start, shapes, *mlp))
        else:
            place(network, name, Prefix(drawn(self.length, total, std=1.0), shapes))
        return network

    def written(self, network: nn.Module, name: str, rules: Rules) -> tuple[dict[str, Any], dict[str, Tensor]]:
        front = fronts(network)[name]
        assert isinstance(front, Prefix)
        heads, dim = next(iter(front.shapes.values()))
        config = {
            "num_virtual_tokens": front.tokens,
            "token_dim": heads * dim,
            "num_layers": len(front.shapes),
            "num_attention_heads": heads,
            "num_transformer_submodules": 1,
            "prefix_projection": False,
            "encoder_hidden_size": heads * dim,
        }
        return config, {"prompt_embeddings": front.flat().detach()}

    @classmethod
    def read(
        cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor], network: nn.Module, name: str, rules: Rules
    ) -> PrefixTuning:
        known = {
            "num_virtual_tokens", "token_dim", "num_layers", "num_attention_heads", "num_transformer_submodules",
            "encoder_hidden_size", "prefix_projection", "init_weights", "fan_in_fan_out",
        }  # fmt: skip
        refuse_settings(config, known, {"modules_to_save": (None, [])})
        flat = only(tensors, "prompt_embeddings")  # PEFT writes it folded, whatever prefix_projection says
        shapes = places(network)
        wanted = (int(config["num_virtual_tokens"]), sum(2 * h * d for h, d in shapes.values()))
        if tuple(flat.shape) != wanted:
            raise GroundupError(f"the prefix is {tuple(flat.shape)}, its settings and this model want {wanted}")
        place(network, name, Prefix(flat.clone(), shapes).requires_grad_(False))
        return cls(length=wanted[0])


def places(network: nn.Module) -> dict[str, tuple[int, int]]:
    """(kv_heads, head_dim) of every self-attention that writes text, by its path."""
    inside = network.decoder if isinstance(network, EncoderDecoder) else network
    found = {
        part.path: (part.kv_heads, part.head_dim)
        for part in inside.modules()
        if isinstance(part, Attention) and not part.cross
    }
    if not found:
        raise UsageError(
            "this model has no attention, so no keys that an adapter could put before a row: take a prompt or LoRA"
        )
    return found
