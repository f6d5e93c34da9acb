"""LLM.int8(): 8-bit weights and 8-bit activations, but for the few columns of activations that are large (arXiv 2208.07339).

    y = (round(127 x / c_x) round(127 w / c_w)ᵀ) · c_x ⊗ c_w / 127²   +   x[:, large] w[:, large]ᵀ

c_x: the largest |x| of each row (a token), c_w that of each row of the matrix (section 3.1). A column of x with a number of
at least `threshold` is large (section 3.2): it is multiplied in the format of x, with the weights as their codes have them.
As in bitsandbytes, c_x counts a large column's small numbers too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from groundup.core.errors import UsageError
from groundup.quantization.integers import absmax, product
from groundup.quantization.stored import Kind, Stored
from groundup.quantization.taken import take


class Decomposed(Stored):
    """codes int8 [O, I] and scale float32 [O, 1]; each product decomposes the activations it is given."""

    kind: LLMInt8
    codes: Tensor
    scale: Tensor

    def dense(self) -> Float[Tensor, "O I"]:
        return self.codes.float() * self.scale

    def rows(self, ids: Tensor) -> Tensor:
        return self.codes[ids].float() * self.scale[ids]

    def product(self, x: Float[Tensor, "N I"]) -> Float[Tensor, "N O"]:
        wide = x.float()
        if not self.kind.threshold:
            codes, scale = absmax(wide)
            return (product(codes, self.codes) * scale * self.scale.T).to(x.dtype)
        above = wide.abs() >= self.kind.threshold
        large = above.any(dim=0)
        codes, scale = absmax(wide.masked_fill(above, 0.0))
        y = product(codes.masked_fill(large, 0), self.codes) * scale * self.scale.T
        return (y + wide[:, large] @ (self.codes[:, large].float() * self.scale).T).to(x.dtype)


@dataclass(frozen=True)
class LLMInt8(Kind):
    """8-bit weights and activations with large columns apart (arXiv 2208.07339)."""

    name: ClassVar[str] = "llm-int8"

    threshold: float = 6.0
    """From which size on a number makes its column large; 0 keeps no column apart."""

    def __post_init__(self) -> None:
        if not self.threshold >= 0:
            raise UsageError(f"threshold {self.threshold}: give 0 or more")

    def store(self, weight: Tensor) -> Decomposed:
        codes, scale = absmax(weight.float())
        return Decomposed(self, (weight.shape[0], weight.shape[1]), {"codes": codes, "scale": scale})

    def read(self, held: Mapping[str, Tensor], shape: tuple[int, int]) -> Decomposed:
        wanted = {"codes": (torch.int8, shape), "scale": (torch.float32, (shape[0], 1))}
        return Decomposed(self, shape, take(held, wanted))
