"""BitFit: the biases and nothing else (Ben Zaken et al., arXiv 2106.10199).

What is trained is kept as a shift beside each bias, so that it is switched and mixed like any adapter; training the
shift from zero is training the bias. PEFT has no such method: the file's layout is ours, in PEFT's form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from groundup.core.errors import GroundupError, UsageError
from groundup.core.rules import Rules
from groundup.nn.linear import Linear
from groundup.nn.norms import LayerNorm
from groundup.nn.surgery import canonical, shared
from groundup.peft.adapted import Part, parts, put
from groundup.peft.method import Encode, Method, Net, refuse_settings


class Shift(Part):
    """What is added to a bias [out]."""

    def __init__(self, shift: Tensor):
        super().__init__()
        self.shift = nn.Parameter(shift)

    def after(self, y: Tensor, x: Tensor, linear: nn.Module) -> Tensor:
        return y + self.shift.to(y.dtype)

    def folded(self, linear: Any) -> Any:
        bias = linear.bias.detach()
        linear.bias = nn.Parameter((bias.double() + self.shift.detach().double()).to(bias.dtype), requires_grad=False)
        return linear


@dataclass(frozen=True)
class BitFit(Method):
    """Train the biases alone (arXiv 2106.10199)."""

    kind: ClassVar[str] = "bitfit"
    peft_type: ClassVar[str] = "GROUNDUP_BITFIT"

    norms: bool = True
    """Train the biases of the norms too."""

    def add(self, network: Net, name: str, *, seed: int = 0, encode: Encode | None = None) -> Net:
        network = shared(network)
        held = biases(network, norms=self.norms)
        if not held:
            raise UsageError("bitfit trains biases, and this model has none; lora or ia3 need none")
        for path, size in held.items():
            put(network, path, name, Shift(torch.zeros(size)))
        return network

    def written(self, network: nn.Module, name: str, rules: Rules) -> tuple[dict[str, Any], dict[str, Tensor]]:
        held = {path: part for path, part in parts(network, name).items() if isinstance(part, Shift)}
        return {"norms": self.norms}, {f"{path}.shift": part.shift for path, part in held.items()}

    @classmethod
    def read(
        cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor], network: nn.Module, name: str, rules: Rules
    ) -> BitFit:
        refuse_settings(config, {"norms"}, {})
        sizes = biases(network, norms=True)
        for key, shift in tensors.items():
            path = key.removesuffix(".shift")
            if sizes.get(path) != len(shift):
                raise GroundupError(f"{key} [{len(shift)}] has no place in this model: it belongs to another base")
            put(network, path, name, Shift(shift.clone()).requires_grad_(False))
        return cls(norms=bool(config.get("norms", True)))


def biases(network: nn.Module, *, norms: bool) -> dict[str, int]:
    """The size of every bias, by the canonical name of what has it."""
    kinds = (Linear, LayerNorm) if norms else (Linear,)
    return {
        canonical(n): len(m.bias) for n, m in network.named_modules() if isinstance(m, kinds) and m.bias is not None
    }
