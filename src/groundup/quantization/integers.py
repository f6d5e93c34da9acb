"""Whole numbers and a scale: the rounding that every other kind begins with, and int8.

    absmax   q = round(w / s)        s = max|w| / (2^(b-1) - 1)                    zero is 0; symmetric
    affine   q = round(w / s) + z    s = (max w - min w) / (2^b - 1)               zero is z; the whole range is used

over a whole tensor or over each row (a channel). Halves round to the even number, as in numpy and torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from jaxtyping import Int8 as Codes
from torch import Tensor

from groundup.core.errors import UsageError
from groundup.quantization.stored import Kind, Stored
from groundup.quantization.taken import take


def absmax(
    w: Float[Tensor, "O I"], *, bits: int = 8, per: Literal["channel", "tensor"] = "channel"
) -> tuple[Codes[Tensor, "O I"], Float[Tensor, "S 1"]]:
    """Codes in -(2^(bits-1) - 1) .. 2^(bits-1) - 1, and the scale of each row (S = O) or of all (S = 1): w ≈ codes · scale."""
    most = _most(bits)
    largest = w.abs().amax(dim=1, keepdim=True) if per == "channel" else w.abs().max().reshape(1, 1)
    codes = (w * (most / torch.where(largest > 0, largest, 1.0))).round().clamp(-most, most)
    return codes.to(torch.int8), (largest / most).float()


def affine(
    w: Float[Tensor, "O I"], *, bits: int = 8, per: Literal["channel", "tensor"] = "channel"
) -> tuple[Codes[Tensor, "O I"], Float[Tensor, "S 1"], Float[Tensor, "S 1"]]:
    """Codes in -2^(bits-1) .. 2^(bits-1) - 1, scale and zero point: w ≈ (codes - zero) · scale. 0.0 is exact."""
    low, high = -(_most(bits) + 1), _most(bits)
    if per == "channel":
        least, largest = w.amin(dim=1, keepdim=True), w.amax(dim=1, keepdim=True)
    else:
        least, largest = w.min().reshape(1, 1), w.max().reshape(1, 1)
    least, largest = least.clamp(max=0.0), largest.clamp(min=0.0)
    scale = ((largest - least) / (high - low)).float()
    safe = torch.where(scale > 0, scale, 1.0)
    zero = (low - least / safe).round().clamp(low, high)
    return ((w * (1 / safe)).round() + zero).clamp(low, high).to(torch.int8), scale, zero


def product(a: Codes[Tensor, "N I"], b: Codes[Tensor, "O I"]) -> Float[Tensor, "N O"]:
    """a bᵀ, exact to the last whole number: float32 holds every sum of 1,024 such products, float64 adds those up."""
    total = torch.zeros(len(a), len(b), dtype=torch.float64, device=a.device)
    for left, right in zip(a.split(1024, dim=1), b.split(1024, dim=1), strict=True):
        total += left.float() @ right.float().T
    return total.float()


def _most(bits: int) -> int:
    if not 2 <= bits <= 8:
        raise UsageError(f"{bits} bits: a code has 2 to 8 of them")
    return 2 ** (bits - 1) - 1


class Whole(Stored):
    """codes int8 [O, I], scale float32 [O or 1, 1], and (affine) zero [O or 1, 1]."""

    codes: Tensor
    scale: Tensor
    zero: Tensor

    def dense(self) -> Float[Tensor, "O I"]:
        return self._numbers(self.codes, slice(None))

    def rows(self, ids: Tensor) -> Tensor:
        return self._numbers(self.codes[ids], ids)

    def _numbers(self, codes: Tensor, at: Tensor | slice) -> Tensor:
        wide = codes.float()
        if "zero" in self.held:
            wide = wide - (self.zero if len(self.zero) == 1 else self.zero[at])
        return wide * (self.scale if len(self.scale) == 1 else self.scale[at])


@dataclass(frozen=True)
class Int8(Kind):
    """8-bit weights, 16- or 32-bit activations."""

    name: ClassVar[str] = "int8"

    per: Literal["channel", "tensor"] = "channel"
    """A scale for each row, or one for the whole matrix."""

    affine: bool = False
    """A zero point as well, so that a lopsided range is used whole."""

    def store(self, weight: Tensor) -> Whole:
        if self.affine:
            held = dict(zip(("codes", "scale", "zero"), affine(weight.float(), per=self.per), strict=True))
        else:
            held = dict(zip(("codes", "scale"), absmax(weight.float(), per=self.per), strict=True))
        return Whole(self, (weight.shape[0], weight.shape[1]), held)

    def read(self, held: Mapping[str, Tensor], shape: tuple[int, int]) -> Whole:
        one = (shape[0] if self.per == "channel" else 1, 1)
        wanted = {"codes": (torch.int8, shape), "scale": (torch.float32, one)}
        return Whole(self, shape, take(held, wanted | ({"zero": (torch.float32, one)} if self.affine else {})))
