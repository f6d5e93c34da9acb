"""Weights of eight and four bits as the compiled library multiplies them: the same numbers in tiles of 16 outputs.

The activations are rounded to eight bits in groups of 32 on the way in (`kernels.packing`), as llama.cpp does; that is the one
thing that differs from the matrix in plain numbers. In training, and away from the CPU, the plain matrix is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeGuard, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.core.errors import GroundupError
from groundup.kernels import packing
from groundup.kernels.library import Library, library
from groundup.kernels.packing import LAYOUTS, Layout, Parts
from groundup.kernels.plan import Plan, Register
from groundup.nn.linear import Linear
from groundup.nn.storage import Dense
from groundup.nn.surgery import shared
from groundup.quantization.blocks import Q8_0, Blocks
from groundup.quantization.integers import Int8, Whole
from groundup.quantization.shrink import holders, store
from groundup.quantization.stored import Stored

Network = TypeVar("Network", bound=nn.Module)


class Packed(Stored):
    """tiles uint8 [bytes], in the layout of its kind; `kind`, `shape` and `held` are those of the storage it was made of."""

    tiles: Tensor

    def __init__(self, source: Blocks | Whole, found: Library):
        super().__init__(source.kind, source.shape, {})
        if isinstance(source, Blocks):
            tiles = packing.native_pack(found, self.layout, source.shape, source.packed)
        else:
            row_scales = source.scale[:, 0].expand(source.shape[0])
            tiles = packing.native_pack(found, self.layout, source.shape, source.codes, row_scales)
        scales = packing.scales(tiles, self.layout, self.shape)
        if not math.isfinite(float(scales.sum(dtype=torch.float32))):  # isfinite is slow on float16
            raise GroundupError(
                f"a scale of a {self.kind.name} matrix {list(self.shape)} is not finite: the file is broken"
            )
        self.register_buffer("tiles", tiles)

    @property
    def layout(self) -> Layout:
        return LAYOUTS[self.kind.name]

    @property
    def held(self) -> dict[str, Tensor]:
        """What the storage that it was made of keeps, to the bit."""
        parts = packing.unpack(self.tiles, self.layout, self.shape)
        return GIVEN[self.kind.name](parts, self.shape[1], self)

    @property
    def bits(self) -> float:
        return 8 * self.tiles.nbytes / max(1, self.shape[0] * self.shape[1])

    def dense(self) -> Float[Tensor, "O I"]:
        return packing.unpack(self.tiles, self.layout, self.shape).dense(self.layout, self.shape[1])

    def rows(self, ids: Int[Tensor, " N"]) -> Float[Tensor, "N I"]:
        found = library() if ids.device.type == "cpu" else None
        if found is None:
            return packing.rows(self.tiles, self.layout, self.shape, ids)
        return packing.native_rows(found, self.tiles, self.layout, self.shape, ids)

    def matmul(self, x: Float[Tensor, "N I"], bias: Float[Tensor, " O"] | None = None) -> Float[Tensor, "N O"]:
        found = library() if x.device.type == "cpu" and not torch.is_grad_enabled() else None
        if found is None:
            return super().matmul(x, bias)
        return packing.native_product(found, x, self.tiles, self.layout, self.shape[0], bias).to(x.dtype)

    def lower(self, plan: Plan, x: Register, bias: Float[Tensor, " O"] | None) -> Register:
        return plan.product(x, self.tiles, self.layout, self.shape[0], bias)


def packable(storage: object) -> TypeGuard[Blocks | Whole]:
    """Whether the library has a layout for this storage."""
    if isinstance(storage, Blocks):
        return storage.kind.name in LAYOUTS
    return isinstance(storage, Whole) and isinstance(storage.kind, Int8) and not storage.kind.affine


def in_eight_bits(network: Network) -> tuple[Network, list[str]]:
    """A copy for the library: linears that are plain are rounded to q8_0, all that it has a layout for stands in tiles.

    Gives the names of what was rounded (a table of vectors that a head is tied to goes along).
    """
    found = holders(network)
    plain = [name for name, part in found.items() if isinstance(part, Linear) and isinstance(part.weight, Dense)]
    rounded: list[str] = []
    if plain:
        network, rounded = store(network, Q8_0(), " ".join(plain))
    return packed(network)[0], rounded


def packed(network: Network) -> tuple[Network, list[str]]:
    """A copy whose weights stand in tiles wherever the library has a layout for them, and the names of those."""
    network, found = shared(network), library()
    if found is None:
        return network, []
    made: dict[int, Packed] = {}
    told: list[str] = []
    for name, holder in holders(network).items():
        storage = holder.weight
        if packable(storage):
            made.setdefault(id(storage), Packed(storage, found))
            holder.weight = made[id(storage)]
            told.append(name)
    return network, told


def _bytes(numbers: Tensor) -> Tensor:
    return numbers.contiguous()[..., None].view(torch.uint8)


def _together(codes: Tensor) -> Tensor:
    return codes[..., :16] | codes[..., 16:] << 4


def _whole_again(parts: Parts, width: int, storage: Packed) -> dict[str, Tensor]:
    assert isinstance(storage.kind, Int8)
    scales = parts.scales[:, None] if storage.kind.per == "channel" else parts.scales[:1, None]
    return {"codes": (parts.codes.flatten(1)[:, :width] ^ 128).view(torch.int8).contiguous(), "scale": scales}


# parts -> what the storage keeps that they were made of
GIVEN: dict[str, Callable[[Parts, int, Packed], dict[str, Tensor]]] = {
    "q8_0": lambda p, w, s: {"packed": torch.cat((_bytes(p.scales), p.codes ^ 128), -1).flatten(1)},
    "q4_0": lambda p, w, s: {"packed": torch.cat((_bytes(p.scales), _together(p.codes)), -1).flatten(1)},
    "q4_1": lambda p, w, s: {
        "packed": torch.cat((_bytes(p.scales), _bytes(_least(p)), _together(p.codes)), -1).flatten(1)
    },
    "int8": _whole_again,
}


def _least(parts: Parts) -> Tensor:
    assert parts.least is not None
    return parts.least
