"""Static int8: weights and activations in 8 bits, by ranges that were observed beforehand (PyTorch's static quantization).

    x_q = round(x / s_x) + z_x                                               0 .. 255, as QuantStub does
    y   = s_x s_w Σ (x_q - z_x) w_q + b                                      sums of whole numbers
    y_q = round(y / s_y) + z_y,  ŷ = s_y (y_q - z_y)                         0 .. 255, as DeQuantStub gives back

The weight has a scale for each row. Ranges are the least and largest numbers that texts sent through; what lies outside is cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from groundup.core.errors import UsageError
from groundup.quantization.integers import absmax, product
from groundup.quantization.listen import Ranges
from groundup.quantization.stored import Kind, Stored
from groundup.quantization.taken import take

HIGHEST = 255


def grid(low: float, high: float) -> tuple[float, float]:
    """Scale and zero point of codes 0 .. 255 for numbers from low to high; 0.0 is exact."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / HIGHEST, 1e-12)
    return scale, float(min(max(round(-low / scale), 0), HIGHEST))


def quantized(x: Tensor, scale: Tensor, zero: Tensor) -> Float[Tensor, "N I"]:
    """The codes of numbers, as float32."""
    return ((x.float() / scale).round() + zero).clamp(0, HIGHEST)


class Static(Stored):
    """codes int8 [O, I], scale [O, 1]; inputs and outputs [2]: scale and zero point."""

    kind: StaticInt8
    codes: Tensor
    scale: Tensor
    inputs: Tensor
    outputs: Tensor

    def dense(self) -> Float[Tensor, "O I"]:
        return self.codes.float() * self.scale

    def rows(self, ids: Tensor) -> Tensor:
        return self.codes[ids].float() * self.scale[ids]

    def product(self, x: Float[Tensor, "N I"]) -> Float[Tensor, "N O"]:
        return self.matmul(x)

    def matmul(self, x: Float[Tensor, "N I"], bias: Float[Tensor, " O"] | None = None) -> Float[Tensor, "N O"]:
        scale, zero = self.inputs
        codes = (quantized(x, scale, zero) - 128).to(torch.int8)  # x_q - 128, so that int8 holds it
        total = product(codes, self.codes) + (128 - zero) * self.codes.float().sum(1)
        y = total * (scale * self.scale[:, 0])
        if bias is not None:
            y = y + bias.float()
        scale, zero = self.outputs
        y = (quantized(y, scale, zero) - zero) * scale
        if x.requires_grad and torch.is_grad_enabled():  # rounding passes gradients straight through (arXiv 1308.3432)
            straight = x.float() @ self.dense().T
            y = straight + (y - straight).detach()
        return y.to(x.dtype)


@dataclass(frozen=True)
class StaticInt8(Kind):
    """8-bit weights and activations by observed ranges."""

    name: ClassVar[str] = "static-int8"

    def store(self, weight: Tensor) -> Static:
        raise UsageError("static-int8 needs texts that tell the ranges of activations: --calibrate rows.jsonl")

    def observer(self) -> Ranges:
        return Ranges()

    def calibrated(self, weight: Float[Tensor, "O I"], seen: Any) -> Static:
        codes, scale = absmax(weight.float())
        held = {"codes": codes, "scale": scale}
        for name, (low, high) in (("inputs", seen.inputs), ("outputs", seen.outputs)):
            held[name] = torch.tensor(grid(low, high), device=weight.device)
        return Static(self, (weight.shape[0], weight.shape[1]), held)

    def read(self, held: Mapping[str, Tensor], shape: tuple[int, int]) -> Static:
        wanted = {"codes": (torch.int8, shape), "scale": (torch.float32, (shape[0], 1)),
                  "inputs": (torch.float32, (2,)), "outputs": (torch.float32, (2,))}  # fmt: skip
        return Static(self, shape, take(held, wanted))
