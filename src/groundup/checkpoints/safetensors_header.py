"""The header of a safetensors file: every claim of it is held against the file before a tensor is made.

    8 bytes   length of the header, little endian
    header    JSON: {"name": {"dtype": "F32", "shape": [out, in], "data_offsets": [begin, end]}, ...,
              "__metadata__": {"format": "pt"}}
    data      the tensors side by side, row-major, little endian; offsets count from here

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from groundup.checkpoints.source import other_format, shown
from groundup.core.errors import GroundupError
from groundup.core.files import parse_json

METADATA = "__metadata__"

MAX_HEADER = 100_000_000  # bytes; the format's own limit
MAX_TENSORS = 100_000  # in one file; the largest models keep about as many in all of their shards
MAX_MARKS = 16 * MAX_TENSORS  # commas and brackets; a tensor needs ten
MAX_AXES = 32

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "F32": torch.float32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
    "C64": torch.complex64,
}
CODES = {dtype: code for code, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: bytes `begin` to `end` of its file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a file holds: where each tensor lies, and the notes beside them."""

    entries: dict[str, Entry]
    metadata: dict[str, str]


def read_header(file: BinaryIO, size: int, path: Path) -> Header:
    """Read and check the header of an open file of `size` bytes; `path` names it in errors.

    Raises GroundupError for what is no safetensors file, and for the first claim that does not fit the file.
    """
    text = _text(file, size, path)
    parsed = parse_json(text, f"The header of {path}", MAX_MARKS)
    if not isinstance(parsed, dict):
        raise GroundupError(f"The header of {path} is not a JSON object")
    entries, metadata = _check(parsed, 8 + len(text), size, path)
    return Header(entries, metadata)


def _text(file: BinaryIO, size: int, path: Path) -> bytes:
    """The header's bytes, read only when its stated length can be true."""
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8:
        fault = f"is cut off after {size} bytes" if size else "is empty (0 bytes)"
    elif length > MAX_HEADER:
        fault = f"is no safetensors file: its header would have {length:,} bytes, allowed are {MAX_HEADER:,}"
    elif 8 + length > size:
        fault = f"is cut off: its header has {length:,} bytes, the file {size:,} in all"
    elif (header := file.read(length))[:1] != b"{":
        fault = "is no safetensors file: its header does not start with '{'"
    else:
        return header
    # only now: a sound header's length may begin with such bytes too
    raise GroundupError(f"{path} {other_format(start) or fault + '; download or copy it again'}")


def _check(header: dict[str, Any], start: int, size: int, path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """The entries of a header and its metadata, or the error that says which claim does not fit a file of `size`."""
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise GroundupError(f"{path}: {METADATA} must map strings to strings")
    if len(header) > MAX_TENSORS:
        raise GroundupError(f"{path} has {len(header):,} tensors; at most {MAX_TENSORS:,} are read from one file")
    entries = {name: _entry(name, fields, start, path) for name, fields in header.items()}
    position = start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.end > size:
            raise GroundupError(
                f"{path} is cut off or false: {shown(name)} would end at byte {entry.end:,}, the file has {size:,}; "
                "download it again"
            )
        if entry.begin != position:
            fault = "overlaps another tensor" if entry.begin < position else "leaves a hole before it"
            raise GroundupError(f"{path}: {shown(name)} at byte {entry.begin:,} {fault}, {position:,} was expected")
        position = entry.end
    if position != size:
        raise GroundupError(f"{path} has {size - position:,} bytes after its last tensor, where the file must end")
    return entries, metadata


def _entry(name: str, fields: Any, start: int, path: Path) -> Entry:
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise GroundupError(f"{path}: {shown(name)} must have just dtype, shape and data_offsets")
    code, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        raise GroundupError(f"{path}: {shown(name)} has dtype {shown(code)}; known are {', '.join(DTYPES)}")
    if not _counts(shape) or len(shape) > MAX_AXES:
        raise GroundupError(f"{path}: the shape of {shown(name)} is not a list of at most {MAX_AXES} sizes")
    # an axis of size 0 makes the tensor empty but not its strides, which PyTorch keeps in 64 bits
    if math.prod(max(1, axis) for axis in shape) >= 2**60:
        raise GroundupError(f"{path}: the shape of {shown(name)} is larger than any file")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise GroundupError(f"{path}: the data_offsets of {shown(name)} are not [begin, end]")
    needed = math.prod(shape) * DTYPES[code].itemsize
    if offsets[1] - offsets[0] != needed:
        raise GroundupError(
            f"{path}: {shown(name)} is {code} {shape}, which takes {needed:,} bytes, but data_offsets give it "
            f"{offsets[1] - offsets[0]:,}"
        )
    return Entry(DTYPES[code], tuple(shape), start + offsets[0], start + offsets[1])


def _counts(value: Any) -> bool:
    # type() and not isinstance(): true is no size
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**60 for n in value)
