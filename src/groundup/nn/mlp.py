"""The two-matrix MLP and its gated form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from groundup.kernels.plan import Hole, Plan, Register
from groundup.nn.linear import Linear
from groundup.nn.step import Step

Activation = Callable[[Tensor], Tensor]


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


# By the names that public configs use. Several of them spell one function.
ACTIVATIONS: dict[str, Activation] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "quick_gelu": _quick_gelu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


def activation(name: str) -> Activation:
    """The function behind a config's `hidden_act`.

    Raises ValueError with the known names for any other.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {name!r} is unknown; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


LOWERED: dict[Activation, str] = {  # by the names that plans use
    F.relu: "relu", F.gelu: "gelu", _gelu_tanh: "gelu_tanh", _quick_gelu: "quick_gelu", F.silu: "silu",
    torch.tanh: "tanh", torch.sigmoid: "sigmoid",
}  # fmt: skip


def lowered(act: Activation) -> str:
    """The name of an activation in plans. Raises `Hole` for one that they do not have."""
    if act not in LOWERED:
        raise Hole(f"activation {act}")
    return LOWERED[act]


class MLP(nn.Module):
    """down(act(up(x))) for each token alone. Shapes: x [T, width] -> [T, width]."""

    def __init__(self, width: int, inner: int, *, act: str, bias: bool = True):
        super().__init__()
        self.up = Linear(width, inner, bias=bias)
        self.down = Linear(inner, width, bias=bias)
        self.act = activation(act)

    def forward(self, x: Float[Tensor, "T D"], step: Step) -> Float[Tensor, "T D"]:
        return self.down(self.act(self.up(x, step)), step)

    def lower(self, plan: Plan, x: Register) -> Register:
        up = plan.lower(self.up, x, self.up.weight.shape[0])
        return plan.lower(self.down, plan.activate(up, lowered(self.act)), self.down.weight.shape[0])


class GatedMLP(nn.Module):
    """down(act(gate(x)) * up(x)) (Shazeer, arXiv 2002.05202, eq. 6). Shapes: x [T, width] -> [T, width]."""

    def __init__(self, width: int, inner: int, *, act: str, bias: bool = False):
        super().__init__()
        self.gate = Linear(width, inner, bias=bias)
        self.up = Linear(width, inner, bias=bias)
        self.down = Linear(inner, width, bias=bias)
        self.act = activation(act)

    def forward(self, x: Float[Tensor, "T D"], step: Step) -> Float[Tensor, "T D"]:
        gate, up = self.gate(x, step), self.up(x, step)
        if self.act is F.silu and torch.is_grad_enabled() and gate.requires_grad:
            return self.down(_SwiGLU.apply(gate, up), step)
        return self.down(self.act(gate) * up, step)

    def lower(self, plan: Plan, x: Register) -> Register:
        gate, up = (plan.lower(part, x, part.weight.shape[0]) for part in (self.gate, self.up))
        return plan.lower(self.down, plan.gate(gate, up, lowered(self.act)), self.down.weight.shape[0])


class _SwiGLU(torch.autograd.Function):
    """silu(gate) * up that keeps its two inputs alone; composed of ops it would keep silu(gate) as well."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        (g,) = grads
        silu = F.silu(gate)
        dup = g * silu
        return torch.ops.aten.silu_backward(g * up, gate), dup
