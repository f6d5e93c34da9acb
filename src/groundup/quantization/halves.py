"""Sixteen bits a number: bfloat16 and float16, rounded to the nearest, halves to the even one.

    bf16   8 bits of exponent, 7 of fraction     up to 3.4e38, steps of 2^-8 = 0.4 % at most
    fp16   5 bits of exponent, 10 of fraction    up to 65,504, steps of 2^-11 = 0.05 % above 6.1e-5, fixed steps of 6e-8 below

What either cannot hold is refused: a weight above 65,504 would be infinite in fp16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from groundup.core.errors import UsageError
from groundup.quantization.stored import Kind, Stored
from groundup.quantization.taken import take


class Halved(Stored):
    """values [O, I] of 16 bits."""

    values: Tensor

    def dense(self) -> Float[Tensor, "O I"]:
        return self.values.float()

    def rows(self, ids: Tensor) -> Tensor:
        return self.values[ids].float()


@dataclass(frozen=True)
class Half(Kind):
    """Base of the two formats."""

    dtype: ClassVar[torch.dtype]

    def store(self, weight: Tensor) -> Halved:
        values = weight.detach().to(self.dtype)
        if not bool(torch.isfinite(values).all()):
            largest = float(weight.abs().max())
            raise UsageError(f"{self.name}: a weight of {largest:.3g} is above {torch.finfo(self.dtype).max:.5g}")
        return Halved(self, (weight.shape[0], weight.shape[1]), {"values": values})

    def read(self, held: Mapping[str, Tensor], shape: tuple[int, int]) -> Halved:
        return Halved(self, shape, take(held, {"values": (self.dtype, shape)}))


@dataclass(frozen=True)
class BF16(Half):
    """bfloat16: float32's range in half of its bits."""

    name: ClassVar[str] = "bf16"
    dtype: ClassVar[torch.dtype] = torch.bfloat16


@dataclass(frozen=True)
class FP16(Half):
    """float16: finer than bfloat16, up to 65,504."""

    name: ClassVar[str] = "fp16"
    dtype: ClassVar[torch.dtype] = torch.float16
