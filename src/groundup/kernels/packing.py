"""The layout in which the library reads weights (native/paths.h), packed, unpacked and multiplied by PyTorch.

    codes   [tiles, groups, ...] of bytes: 16 outputs x 32 inputs lie together, four inputs of an output side by side
    scales  [tiles, groups, 16] float16 (and as many least numbers), or [tiles, 16] float32 of whole rows

`product` is what the library is tested against: activations are rounded to eight bits in groups of 32 (largest / 127), and
products of codes are whole numbers, so that both sides differ by the order of float32 sums alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor

from groundup.kernels.library import Library

GROUP, TILE = 32, 16
SMALLEST = 2.0**-100  # a group whose largest number is below this counts as zeros


@dataclass(frozen=True)
class Layout:
    """One kind of packed weights. A number is scale · (code - zero), plus the least number of its group.

    number  of the kind in the library
    bits    of a code
    whole   the scales are float32 and of whole rows
    least   groups have a least number
    """

    number: int
    bits: int
    zero: int
    whole: bool = False
    least: bool = False


LAYOUTS = {
    "q8_0": Layout(0, 8, 128),
    "q4_0": Layout(1, 4, 8),
    "q4_1": Layout(2, 4, 0, least=True),
    "int8": Layout(3, 8, 128, whole=True),
}


@dataclass(frozen=True)
class Parts:
    """A matrix [O, I] taken apart. Groups that I does not fill hold `zero` behind it.

    codes   [O, groups, 32], unsigned
    scales  [O, groups] float16, or [O] float32
    least   [O, groups] float16, or None
    """

    codes: UInt8[Tensor, "O G 32"]
    scales: Float[Tensor, "O ..."]
    least: Float[Tensor, "O G"] | None = None

    def dense(self, layout: Layout, width: int) -> Float[Tensor, "O I"]:
        """The matrix, in float32."""
        scales = self.scales.float()[:, None] if layout.whole else self.scales.float()
        numbers = (self.codes.float() - layout.zero) * scales[..., None]
        if self.least is not None:
            numbers = numbers + self.least.float()[..., None]
        return numbers.flatten(1)[:, :width]


def pack(parts: Parts, layout: Layout) -> UInt8[Tensor, " bytes"]:
    """Parts -> the library's bytes; outputs that the last tile lacks are zeros. The reference of `native_pack`."""
    out, groups, _ = parts.codes.shape
    more = -out % TILE
    codes = F.pad(parts.codes, (0, 0, 0, 0, 0, more), value=layout.zero).view(-1, TILE, groups, 8, 4)
    codes = codes.permute(0, 2, 3, 1, 4)  # [tiles, groups, 8, 16, 4]
    if layout.bits == 4:
        low, high = codes.split(4, dim=2)  # inputs 0-15 and 16-31 of a group
        codes = low | high << 4
    laid = [codes.reshape(-1)]
    if layout.whole:
        laid.append(F.pad(parts.scales, (0, more)).contiguous().view(torch.uint8))
    else:
        numbers = [parts.scales] if parts.least is None else [parts.scales, parts.least]
        tiled = [F.pad(n, (0, 0, 0, more)).view(-1, TILE, groups).transpose(1, 2) for n in numbers]
        laid.append(torch.stack(tiled, 2).contiguous().view(torch.uint8).reshape(-1))
    return torch.cat(laid)


def size(layout: Layout, shape: tuple[int, int]) -> int:
    """Bytes of a packed matrix."""
    tiles, groups = -(-shape[0] // TILE), -(-shape[1] // GROUP)
    scales = 4 if layout.whole else groups * (4 if layout.least else 2)
    return tiles * TILE * (groups * GROUP * layout.bits // 8 + scales)


def native_pack(
    library: Library,
    layout: Layout,
    shape: tuple[int, int],
    rows: Shaped[Tensor, "O B"],
    scales: Float[Tensor, " O"] | None = None,
) -> UInt8[Tensor, " bytes"]:
    """The rows of a file -> the library's bytes: GGUF's blocks as they stand, or int8 codes with a scale for each row."""
    rows, packed = rows.contiguous(), torch.empty(size(layout, shape), dtype=torch.uint8)
    held = None if scales is None else scales.contiguous()
    library.functions.groundup_pack(
        layout.number, rows.data_ptr(), None if held is None else held.data_ptr(), packed.data_ptr(),
        shape[1], shape[0], torch.get_num_threads(),
    )  # fmt: skip
    return packed


def scales(packed: UInt8[Tensor, " bytes"], layout: Layout, shape: tuple[int, int]) -> Float[Tensor, " N"]:
    """All scales and least numbers, in the order and format in which they lie there."""
    codes = -(-shape[0] // TILE) * -(-shape[1] // GROUP) * TILE * GROUP * layout.bits // 8
    return packed[codes:].view(torch.float32 if layout.whole else torch.float16)


def unpack(packed: UInt8[Tensor, " bytes"], layout: Layout, shape: tuple[int, int]) -> Parts:
    """The library's bytes -> parts; the inverse of `pack`."""
    return _rows_of(packed, layout, shape, torch.arange(-(-shape[0] // TILE), device=packed.device), slice(shape[0]))


def rows(
    packed: UInt8[Tensor, " bytes"], layout: Layout, shape: tuple[int, int], ids: Int[Tensor, " N"]
) -> Float[Tensor, "N I"]:
    """Some rows of the matrix, in float32. The reference of `native_rows`."""
    tiles, place = ids // TILE, ids % TILE
    at = torch.arange(len(ids), device=ids.device) * TILE + place
    return _rows_of(packed, layout, shape, tiles, at).dense(layout, shape[1])


def native_rows(
    library: Library, packed: UInt8[Tensor, " bytes"], layout: Layout, shape: tuple[int, int], ids: Int[Tensor, " N"]
) -> Float[Tensor, "N I"]:
    """The same by the library. IndexError for an id that the matrix has no row for."""
    ids, out = ids.long().contiguous(), torch.empty(len(ids), shape[1])
    if len(ids) and not (int(ids.min()) >= 0 and int(ids.max()) < shape[0]):
        raise IndexError(f"row {int(ids.max())} of a matrix with {shape[0]} rows")
    library.functions.groundup_rows(
        layout.number, packed.data_ptr(), ids.data_ptr(), len(ids), out.data_ptr(), shape[1], shape[0]
    )
    return out


def _rows_of(packed: Tensor, layout: Layout, shape: tuple[int, int], chosen: Tensor, at: Tensor | slice) -> Parts:
    """The parts of some tiles, of which the rows `at` are kept."""
    tiles, groups = -(-shape[0] // TILE), -(-shape[1] // GROUP)
    numbers = scales(packed, layout, shape)
    codes = packed[: len(packed) - numbers.nbytes].view(tiles, groups, -1, TILE, 4)[chosen]
    if layout.bits == 4:
        codes = torch.cat((codes & 15, codes >> 4), dim=2)
    codes = codes.permute(0, 3, 1, 2, 4).reshape(-1, groups, GROUP)[at]
    if layout.whole:
        return Parts(codes, numbers.view(tiles, TILE)[chosen].flatten()[at])
    laid = numbers.view(tiles, groups, -1, TILE)[chosen]
    each = [n.transpose(1, 2).reshape(-1, groups)[at] for n in laid.unbind(2)]
    return Parts(codes, *each)


def rounded(x: Float[Tensor, "N I"]) -> tuple[Float[Tensor, "N G 32"], Float[Tensor, "N G"]]:
    """Activations in eight bits: codes -127 .. 127 as whole float32 numbers, and the scale of every group."""
    groups = F.pad(x.float(), (0, -x.shape[1] % GROUP)).unflatten(1, (-1, GROUP))
    largest = groups.abs().amax(-1)
    # one tensor by another: a number by a tensor is a product with a reciprocal to PyTorch, which rounds twice
    inverse = torch.where(largest < SMALLEST, 0.0, torch.full_like(largest, 127.0) / largest)
    scale = torch.where(largest < SMALLEST, 0.0, largest / 127.0)
    return (groups * inverse[..., None]).round(), scale


def product(
    x: Float[Tensor, "N I"], parts: Parts, layout: Layout, bias: Float[Tensor, " O"] | None = None
) -> Float[Tensor, "N O"]:
    """x Wᵀ + bias with rounded x, by PyTorch: the reference of `native_product`."""
    codes, scale = rounded(x)
    weights = parts.codes.float() - layout.zero
    sums = torch.einsum("ngi,ogi->ngo", codes, weights)  # whole numbers below 2^24: exact
    if layout.whole:
        y = (sums * scale[..., None]).sum(1) * parts.scales
    else:
        y = (sums * scale[..., None] * parts.scales.float().T).sum(1)
    if parts.least is not None:
        y = y + (codes.sum(-1) * scale) @ parts.least.float().T
    return y if bias is None else y + bias


def native_product(
    library: Library,
    x: Float[Tensor, "N I"],
    packed: UInt8[Tensor, " bytes"],
    layout: Layout,
    outputs: int,
    bias: Float[Tensor, " O"] | None = None,
) -> Float[Tensor, "N O"]:
    """The same by the library, on as many threads as PyTorch uses."""
    x = x.detach().float().contiguous()
    y = x.new_empty(len(x), outputs)
    held = None if bias is None else bias.detach().float().contiguous()
    failed = library.functions.groundup_product(
        library.path, layout.number, packed.data_ptr(), None if held is None else held.data_ptr(),
        x.data_ptr(), y.data_ptr(), len(x), x.shape[1], outputs, torch.get_num_threads(),
    )  # fmt: skip
    if failed:
        raise MemoryError("no memory for rounded activations")
    return y
