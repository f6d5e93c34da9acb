"""The blocks of GGUF files, as they stand there: groups of numbers along the input with a scale, in llama.cpp's bytes.

    q8_0   32 numbers   w = d · q               d float16, q -128 .. 127
    q4_0   32 numbers   w = d · (q - 8)         d float16, q 0 .. 15; the first 16 numbers in the low halves of the bytes
    q4_1   32 numbers   w = d · q + m           d, m float16

The other kinds (K-quants and the rest) are kept and read by the package `gguf`; nothing is stored in them anew. A row whose
width is no whole number of blocks is filled up with zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from groundup.core.errors import UsageError
from groundup.quantization.gptq import compensate
from groundup.quantization.listen import Gram
from groundup.quantization.stored import Kind, Stored
from groundup.quantization.taken import take

LARGEST = 65504 * 7  # a weight whose scale is no float16 any more


def sizes(name: str) -> tuple[int, int]:
    """How many numbers a block of this kind holds, and in how many bytes. UsageError for a kind that gguf does not read."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        numbers, size = GGML_QUANT_SIZES[GGMLQuantizationType[name.upper()]]
    except KeyError:
        raise UsageError(f"there is no kind of blocks {name!r}") from None
    return int(numbers), int(size)


class Blocks(Stored):
    """packed uint8 [O, blocks · bytes]."""

    kind: BlockKind
    packed: Tensor

    def dense(self) -> Float[Tensor, "O I"]:
        return unpack(self.packed, self.kind.name)[:, : self.shape[1]]

    def rows(self, ids: Tensor) -> Tensor:
        return unpack(self.packed[ids], self.kind.name)[:, : self.shape[1]]


def unpack(packed: UInt8[Tensor, "O B"], name: str) -> Float[Tensor, "O W"]:
    """The numbers of rows of blocks."""
    if name not in UNPACK:
        return _by_gguf(packed, name)
    _, size = sizes(name)
    return UNPACK[name](packed.view(len(packed), -1, size)).reshape(len(packed), -1)


def _halves(b: Tensor) -> Tensor:
    """[..., 16] bytes -> [..., 32] codes."""
    return torch.cat([b & 15, b >> 4], dim=-1).float()


def _float16(b: Tensor) -> Tensor:
    """[..., 2] bytes -> [..., 1]."""
    return b.contiguous().view(torch.float16).float()


UNPACK = {
    "q8_0": lambda b: b[..., 2:].contiguous().view(torch.int8).float() * _float16(b[..., :2]),
    "q4_0": lambda b: (_halves(b[..., 2:]) - 8) * _float16(b[..., :2]),
    "q4_1": lambda b: _halves(b[..., 4:]) * _float16(b[..., :2]) + _float16(b[..., 2:4]),
}


def _bytes(numbers: Float[Tensor, " O"]) -> UInt8[Tensor, "O 2"]:
    return numbers.to(torch.float16)[:, None].view(torch.uint8)


def _nibbles(codes: Float[Tensor, "O 32"]) -> UInt8[Tensor, "O 16"]:
    whole = codes.to(torch.uint8)
    return whole[:, :16] | whole[:, 16:] << 4


# scale [O], least [O], codes [O, 32] -> the bytes of a block
PACK: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "q8_0": lambda d, m, q: torch.cat([_bytes(d), q.to(torch.int8).view(torch.uint8)], 1),
    "q4_0": lambda d, m, q: torch.cat([_bytes(d), _nibbles(q)], 1),
    "q4_1": lambda d, m, q: torch.cat([_bytes(d), _bytes(m), _nibbles(q)], 1),
}


def _half(numbers: Tensor) -> Tensor:
    return numbers.to(torch.float16).float()


def _symmetric(group: Float[Tensor, "O 32"]) -> tuple[Tensor, Tensor, int, int]:
    scale = _half(group.abs().amax(1) / 127)
    return scale, torch.zeros_like(scale), -127, 127


def _around_eight(group: Float[Tensor, "O 32"]) -> tuple[Tensor, Tensor, int, int]:
    """Seven steps to the larger side and eight to the other; a scale is above 0, unlike in llama.cpp's rounding."""
    scale = _half(torch.maximum(group.amax(1) / 7, -group.amin(1) / 8))
    return scale, -8 * scale, 0, 15


def _from_the_least(group: Float[Tensor, "O 32"]) -> tuple[Tensor, Tensor, int, int]:
    least = _half(group.amin(1))
    return _half((group.amax(1) - least) / 15), least, 0, 15


GRIDS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor, int, int]]] = {  # scale, least, and the range of codes
    "q8_0": _symmetric,
    "q4_0": _around_eight,
    "q4_1": _from_the_least,
}


def _by_gguf(packed: Tensor, name: str) -> Tensor:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    found: Any = dequantize(packed.cpu().numpy(), GGMLQuantizationType[name.upper()])
    return torch.from_numpy(np.ascontiguousarray(found, np.float32)).to(packed.device)


@dataclass(frozen=True)
class BlockKind(Kind):
    """Base of the kinds of blocks; their names are GGUF's, in small letters."""

    def store(self, weight: Float[Tensor, "O I"]) -> Blocks:
        from gguf import GGMLQuantizationType
        from gguf.quants import quantize

        numbers, _ = sizes(self.name)
        filled = F.pad(weight.detach().float().cpu(), (0, -weight.shape[1] % numbers))
        largest = float(filled.abs().max())
        if not largest < LARGEST:
            raise UsageError(f"{self.name}: a weight of {largest:.3g} is too large for scales of 16 bits")
        try:
            packed = quantize(filled.numpy(), GGMLQuantizationType[self.name.upper()])
        except NotImplementedError:
            raise UsageError(f"{self.name}: such blocks are read, not made; make q8_0, q4_0 or q4_1") from None
        held = torch.from_numpy(packed).to(weight.device)
        return Blocks(self, (weight.shape[0], weight.shape[1]), {"packed": held})

    def observer(self) -> Gram:
        if self.name not in GRIDS:
            raise UsageError(f"{self.name}: such blocks are read, not made; make q8_0, q4_0 or q4_1")
        return Gram()

    def calibrated(self, weight: Float[Tensor, "O I"], seen: Gram) -> Blocks:
        """The same blocks, each column rounded so that the columns behind it make up for the error (GPTQ)."""
        assert seen.total is not None
        numbers, _ = sizes(self.name)
        more = -weight.shape[1] % numbers
        filled, gram = F.pad(weight.detach().float(), (0, more)), F.pad(seen.total, (0, more, 0, more))
        packed = []

        def grid(group: Tensor) -> Callable[[Tensor], Tensor]:
            scale, least, lowest, highest = GRIDS[self.name](group)
            codes: list[Tensor] = []

            def onto(column: Tensor) -> Tensor:
                found = torch.where(scale > 0, (column - least) / torch.where(scale > 0, scale, 1.0), 0.0)
                codes.append(found.round().clamp(lowest, highest))
                if len(codes) == numbers:
                    packed.append(PACK[self.name](scale, least, torch.stack(codes, 1)))
                return codes[-1] * scale + least

            return onto

        compensate(filled, gram, grid, numbers)
        return Blocks(self, (weight.shape[0], weight.shape[1]), {"packed": torch.cat(packed, 1)})

    def read(self, held: Mapping[str, Tensor], shape: tuple[int, int]) -> Blocks:
        numbers, size = sizes(self.name)
        wanted = {"packed": (torch.uint8, (shape[0], -(-shape[1] // numbers) * size))}
        return Blocks(self, shape, take(held, wanted))


@dataclass(frozen=True)
class Q8_0(BlockKind):
    """Eight bits in groups of 32 with a scale."""

    name: ClassVar[str] = "q8_0"


@dataclass(frozen=True)
class Q4_0(BlockKind):
    """Four bits in groups of 32 with a scale."""

    name: ClassVar[str] = "q4_0"


@dataclass(frozen=True)
class Q4_1(BlockKind):
    """Four bits in groups of 32 with a scale and a least number."""

    name: ClassVar[str] = "q4_1"


@dataclass(frozen=True)
class Q5_0(BlockKind):
    """Five bits in groups of 32 with a scale."""

    name: ClassVar[str] = "q5_0"


@dataclass(frozen=True)
class Q5_1(BlockKind):
    """Five bits in groups of 32 with a scale and a least number."""

    name: ClassVar[str] = "q5_1"


@dataclass(frozen=True)
class Q4_K(BlockKind):
    """Four bits in groups of 32, eight of them to a block whose scales have six bits."""

    name: ClassVar[str] = "q4_k"


@dataclass(frozen=True)
class Q5_K(BlockKind):
    """Five bits in groups of 32, eight of them to a block whose scales have six bits."""

    name: ClassVar[str] = "q5_k"


@dataclass(frozen=True)
class Q6_K(BlockKind):
    """Six bits in groups of 16, sixteen of them to a block whose scales have eight bits."""

    name: ClassVar[str] = "q6_k"
