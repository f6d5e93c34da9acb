"""Bottleneck adapters: a small MLP with a way round it behind each half of a block (Houlsby et al., arXiv 1902.00751).

    y = o(...)          y + up(act(down(y)))        down [width, D], up [D, width], up starts at zero

What a half of a block gives is what its last linear gives, so that is where the adapter sits (attn.o, cross.o,
mlp.down). It is not linear: it cannot be merged. PEFT has no such method: the file's layout is ours, in PEFT's form.
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
from groundup.nn.linear import Linear
from groundup.nn.mlp import ACTIVATIONS, activation
from groundup.nn.surgery import linears, match, shared
from groundup.peft.adapted import Part, parts, put
from groundup.peft.method import Encode, Method, Net, refuse_settings, shapes

NAMES = ("down", "down_bias", "up", "up_bias")


class Narrow(Part):
    """The small MLP of one place. Shapes: down [width, D], up [D, width]."""

    def __init__(self, down: Tensor, down_bias: Tensor, up: Tensor, up_bias: Tensor, *, act: str):
        super().__init__()
        self.down, self.down_bias = nn.Parameter(down), nn.Parameter(down_bias)
        self.up, self.up_bias = nn.Parameter(up), nn.Parameter(up_bias)
        self.act = activation(act)

    def after(self, y: Float[Tensor, "T O"], x: Float[Tensor, "T I"], linear: Linear) -> Float[Tensor, "T O"]:
        down, down_bias, up, up_bias = (t.to(y.dtype) for t in (self.down, self.down_bias, self.up, self.up_bias))
        return y + F.linear(self.act(F.linear(y, down, down_bias)), up, up_bias)


@dataclass(frozen=True)
class Bottleneck(Method):
    """Houlsby's adapters (arXiv 1902.00751)."""

    kind: ClassVar[str] = "bottleneck"
    peft_type: ClassVar[str] = "GROUNDUP_BOTTLENECK"

    width: int = 16
    """Inner width of the small MLP."""

    act: str = "gelu"
    """Its activation."""

    places: str = "attn.o mlp.down"
    """The linears behind which it sits."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise UsageError(f"width {self.width}: give at least 1")
        if self.act not in ACTIVATIONS:
            raise UsageError(f"act {self.act!r}: there are {', '.join(ACTIVATIONS)}")

    def add(self, network: Net, name: str, *, seed: int = 0, encode: Encode | None = None) -> Net:
        network = shared(network)
        generator = torch.Generator().manual_seed(seed)
        sizes = shapes(network)
        for path in match(list(linears(network)), self.places):
            size = sizes[path][0]
            down = torch.randn(self.width, size, generator=generator) * size**-0.5
            part = Narrow(down, torch.zeros(self.width), torch.zeros(size, self.width), torch.zeros(size), act=self.act)
            put(network, path, name, part)
        return network

    def written(self, network: nn.Module, name: str, rules: Rules) -> tuple[dict[str, Any], dict[str, Tensor]]:
        held = parts(network, name)
        tensors = {f"{path}.{n}": getattr(part, n) for path, part in held.items() for n in NAMES}
        return {"width": self.width, "act": self.act, "places": " ".join(held)}, tensors

    @classmethod
    def read(
        cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor], network: nn.Module, name: str, rules: Rules
    ) -> Bottleneck:
        refuse_settings(config, {"width", "act", "places"}, {})
        method = cls(width=int(config["width"]), act=str(config["act"]), places=str(config["places"]))
        sizes, waiting = shapes(network), set(tensors)
        for path in method.places.split():
            keys = [f"{path}.{n}" for n in NAMES]
            if path not in sizes or not waiting.issuperset(keys):
                raise GroundupError(f"{path} has no place in this model, or not all its tensors are in the file")
            down, down_bias, up, up_bias = (tensors[k].clone() for k in keys)
            width, size = method.width, sizes[path][0]
            found = [tuple(t.shape) for t in (down, down_bias, up, up_bias)]
            if found != [(width, size), (width,), (size, width), (size,)]:
                raise GroundupError(f"{path} has tensors of shapes {found}: the adapter belongs to another base")
            put(network, path, name, Narrow(down, down_bias, up, up_bias, act=method.act).requires_grad_(False))
            waiting -= set(keys)
        if waiting:
            raise GroundupError(f"{len(waiting)} tensors have no place: {', '.join(sorted(waiting)[:4])}")
        return method
