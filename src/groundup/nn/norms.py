"""Layer normalisation and its root-mean-square form."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from groundup.kernels.plan import Plan, Register
from groundup.nn.step import Step


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(var + eps) * weight + bias over the last axis (Ba et al., arXiv 1607.06450, eq. 4).

    Shapes: x [T, D] -> [T, D].
    """

    def __init__(self, width: int, *, eps: float, bias: bool = True):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(width), requires_grad=False) if bias else None

    def forward(self, x: Float[Tensor, "T D"], step: Step) -> Float[Tensor, "T D"]:
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if weight.dtype != x.dtype:
            weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
        return F.layer_norm(x, weight.shape, weight, bias, self.eps)

    def lower(self, plan: Plan, x: Register) -> Register:
        return plan.layer_norm(x, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) * weight over the last axis (Zhang & Sennrich, arXiv 1910.07467, eq. 4).

    The mean is taken in float32 whatever the format of `x`. With `centred` the gain is 1 + weight (Gemma), so that
    weight decay draws it to 1. Shapes: x [T, D] -> [T, D], or each head's [T, H, Dh].
    """

    def __init__(self, width: int, *, eps: float, centred: bool = False):
        super().__init__()
        self.eps, self.centred = eps, centred
        self.weight = nn.Parameter(torch.zeros(width) if centred else torch.ones(width), requires_grad=False)

    @property
    def gain(self) -> Float[Tensor, " D"]:
        return 1.0 + self.weight if self.centred else self.weight

    def forward(self, x: Float[Tensor, "*T D"], step: Step) -> Float[Tensor, "*T D"]:
        gain = self.gain
        if torch.is_grad_enabled() and (x.requires_grad or gain.requires_grad):
            return _Normalize.apply(x, gain, self.eps)
        return F.rms_norm(x, gain.shape, gain.to(x.dtype), self.eps)

    def lower(self, plan: Plan, x: Register) -> Register:
        return plan.rms_norm(x, self.gain, self.eps)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"


class _Normalize(torch.autograd.Function):
    """RMSNorm that keeps x and one number a token for the backward pass; composed of ops it would keep three copies.

    With n = x r, r = 1 / sqrt(mean(x²) + eps) and h = g * weight:  dx = r (h - n mean(h n)),  dweight = sum(g n).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        inverse = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return (wide * inverse * weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, inverse = ctx.saved_tensors
        normal = x * inverse
        g = grads[0].to(normal.dtype)
        dx = dweight = None
        if ctx.needs_input_grad[1]:
            dweight = (g * normal).flatten(0, -2).sum(0).to(weight.dtype)
        if ctx.needs_input_grad[0]:
            h = g * weight
            along = (h * normal).mean(-1, keepdim=True)
            dx = torch.addcmul(h, normal, along, value=-1).mul_(inverse).to(x.dtype)
        return dx, dweight, None
