"""NF4 and FP4: four bits that name one of sixteen numbers, times the largest number of a block (Dettmers et al., arXiv 2305.14314).

NF4's sixteen are equally likely under a normal distribution (section 3, eq. 4): quantiles of N(0, 1) between 1 - δ and δ,
eight of them positive, divided by the largest. FP4's are those of a float with 1 sign, 2 exponent and 1 mantissa bit, in the
order in which bitsandbytes numbers them. Packing is bitsandbytes': the matrix flat, the first of two numbers in the high half.

Double quantization (section 3): the blocks' scales less their mean, in 8 bits by a table of dynamic exponents (Dettmers et al.,
arXiv 2110.02861), 256 of them to a scale of their own. A block of 64 then costs 0.127 bits a number instead of 0.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from groundup.core.errors import UsageError
from groundup.quantization.stored import Kind, Stored
from groundup.quantization.taken import take

GROUP = 256  # scales of blocks to one scale of their own


@cache
def normal_table() -> Tensor:
    """NF4's sixteen numbers, from -1 to 1."""
    last = 1 - (1 / 32 + 1 / 30) / 2
    upper = torch.special.ndtri(torch.linspace(last, 0.5, 9, dtype=torch.float64)[:-1])
    lower = -torch.special.ndtri(torch.linspace(last, 0.5, 8, dtype=torch.float64)[:-1])
    table = torch.cat([upper, lower, torch.zeros(1, dtype=torch.float64)]).sort().values
    return (table / table.max()).float()


@cache
def float_table() -> Tensor:
    """FP4's sixteen numbers by code: the upper half of the codes is negative."""
    positive = torch.tensor([0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0]) / 12
    return torch.cat([positive, -positive])


@cache
def dynamic_table() -> Tensor:
    """The 256 numbers of the 8-bit type with a dynamic exponent: seven decades, ever more numbers in each, both signs."""
    found = [torch.tensor([0.0, 1.0])]
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2**decade + 1)
        means = (edges[:-1] + edges[1:]) / 2 * 10.0 ** (decade - 6)
        found += [means, -means]
    return torch.cat(found).sort().values


def nearest(x: Tensor, table: Tensor) -> Tensor:
    """The code of the nearest number of a table, uint8, in the shape of x."""
    ordered, codes = table.sort(stable=True)
    place = torch.bucketize(x, (ordered[:-1] + ordered[1:]) / 2)
    return codes[place].to(torch.uint8)


def blocks_of(x: Tensor, size: int) -> Tensor:
    """Flat numbers in blocks [n, size]; the last one is filled up with zeros."""
    flat = x.reshape(-1)
    return torch.nn.functional.pad(flat, (0, -len(flat) % size)).view(-1, size)


class Nibbles(Stored):
    """codes uint8 [half the numbers]; scale float32 [blocks], or scale_codes uint8, scale_scale and scale_mean."""

    kind: FourBit
    codes: Tensor
    scale: Tensor
    scale_codes: Tensor
    scale_scale: Tensor
    scale_mean: Tensor

    @property
    def scales(self) -> Float[Tensor, " B"]:
        """The largest number of each block."""
        if not self.kind.double:
            return self.scale
        numbers = dynamic_table().to(self.codes.device)[self.scale_codes.int()]
        count = len(numbers)
        return (blocks_of(numbers, GROUP) * self.scale_scale[:, None]).reshape(-1)[:count] + self.scale_mean

    def dense(self) -> Float[Tensor, "O I"]:
        return self._numbers(self.codes, self.scales, self.shape[0])

    def rows(self, ids: Tensor) -> Tensor:
        width = self.shape[1]
        if width % self.kind.block or width % 2:  # a block holds parts of two rows
            return self.dense()[ids]
        codes, scales = self.codes.view(-1, width // 2)[ids], self.scales.view(-1, width // self.kind.block)[ids]
        return self._numbers(codes.reshape(-1), scales.reshape(-1), len(ids))

    def _numbers(self, codes: Tensor, scales: Tensor, rows: int) -> Tensor:
        pairs = pairs_of(self.kind.name).to(codes.device)[codes.int()].view(-1)
        count = rows * self.shape[1]
        return (blocks_of(pairs[:count], self.kind.block) * scales[:, None]).reshape(-1)[:count].view(rows, -1)


@cache
def pairs_of(name: str) -> Float[Tensor, "256 2"]:
    """The two numbers that a byte holds."""
    table, byte = TABLES[name](), torch.arange(256)
    return torch.stack([table[byte >> 4], table[byte & 15]], dim=1)


TABLES = {"nf4": normal_table, "fp4": float_table}


@dataclass(frozen=True)
class FourBit(Kind):
    """Four bits by a table of sixteen numbers."""

    block: int = 64
    """Numbers to one scale."""

    double: bool = True
    """The scales in 8 bits."""

    def __post_init__(self) -> None:
        if self.block not in (32, 64, 128, 256, 512, 1024, 2048, 4096):
            raise UsageError(f"block {self.block}: give a power of two from 32 to 4096")

    def store(self, weight: Tensor) -> Nibbles:
        blocks = blocks_of(weight.float(), self.block)
        scale = blocks.abs().amax(dim=1)
        safe = torch.where(scale > 0, scale, 1.0)
        codes = nearest((blocks / safe[:, None]).reshape(-1)[: weight.numel()], TABLES[self.name]())
        if len(codes) % 2:
            codes = torch.cat([codes, codes.new_full((1,), nearest(torch.zeros(1), TABLES[self.name]()).item())])
        held = {"codes": codes[0::2] << 4 | codes[1::2]}
        if self.double:
            mean = scale.mean()
            groups = blocks_of(scale - mean, GROUP)
            top = groups.abs().amax(dim=1)
            inside = groups / torch.where(top > 0, top, 1.0)[:, None]
            held["scale_codes"] = nearest(inside.reshape(-1)[: len(scale)], dynamic_table())
            held |= {"scale_scale": top, "scale_mean": mean.reshape(1)}
        else:
            held["scale"] = scale
        return Nibbles(self, (weight.shape[0], weight.shape[1]), held)

    def read(self, held: Mapping[str, Tensor], shape: tuple[int, int]) -> Nibbles:
        count = shape[0] * shape[1]
        blocks = -(-count // self.block)
        wanted: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {"codes": (torch.uint8, (-(-count // 2),))}
        if self.double:
            wanted["scale_codes"] = (torch.uint8, (blocks,))
            wanted["scale_scale"] = (torch.float32, (-(-blocks // GROUP),))
            wanted["scale_mean"] = (torch.float32, (1,))
        else:
            wanted["scale"] = (torch.float32, (blocks,))
        return Nibbles(self, shape, take(held, wanted))


@dataclass(frozen=True)
class NF4(FourBit):
    """Four bits whose numbers are equally likely in a normal distribution."""

    name: ClassVar[str] = "nf4"


@dataclass(frozen=True)
class FP4(FourBit):
    """Four bits as a small floating-point number."""

    name: ClassVar[str] = "fp4"
