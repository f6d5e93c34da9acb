"""The header of a GGUF file (llama.cpp's format), versions 2 and 3, little-endian.

A file may lie. Every count, length, offset and dimension is a Python integer, which cannot overflow, and is held
against the size of the file before anything is allocated for it. The layout is that of the public specification:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import torch

from groundup.checkpoints.source import other_format
from groundup.core.errors import GroundupError

# Caps far above what real files have (the largest vocabularies need some 1.3 million items and 20 MB)
MAX_HEADER = 2**27  # bytes
MAX_ITEMS = 2**21  # of all arrays together: each becomes a Python object
MAX_KEYS = 2**16
MAX_TENSORS = 2**17
MAX_NAME = 2**16  # bytes
MAX_DIMENSIONS = 4
MAX_ELEMENTS = 2**48
MAX_ALIGNMENT = 2**20

MAGIC = b"GGUF"
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
BOOL, STRING, ARRAY = 7, 8, 9
SMALLEST_ENTRY = 8 + 4 + 1  # an empty key, its type and one byte
SMALLEST_TENSOR = 8 + 4 + 8 + 4 + 8  # an empty name, one dimension, type and offset


@dataclass(frozen=True)
class Kind:
    """How numbers are stored: `size` bytes for each block of `block` numbers; torch has a `dtype` for some kinds."""

    name: str
    block: int
    size: int
    dtype: torch.dtype | None = None


KINDS = {
    0: Kind("F32", 1, 4, torch.float32),
    1: Kind("F16", 1, 2, torch.float16),
    30: Kind("BF16", 1, 2, torch.bfloat16),
    2: Kind("Q4_0", 32, 18),
    3: Kind("Q4_1", 32, 20),
    6: Kind("Q5_0", 32, 22),
    7: Kind("Q5_1", 32, 24),
    8: Kind("Q8_0", 32, 34),
    12: Kind("Q4_K", 256, 144),
    13: Kind("Q5_K", 256, 176),
    14: Kind("Q6_K", 256, 210),
}


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies: `start` and `size` in bytes of the file; `shape` in torch's order, the row's length last."""

    shape: tuple[int, ...]
    kind: Kind
    start: int
    size: int


class Header:
    """A place in the file that moves on while the header is read; `_need` stands before every step."""

    def __init__(self, path: Path, data: mmap.mmap | bytes) -> None:
        self.path, self.data, self.at = path, data, 0
        self.size = len(data)
        self.end = min(self.size, MAX_HEADER)
        self.items = 0

    def parse(self) -> tuple[dict[str, Any], dict[str, Entry]]:
        start = bytes(self.data[:8])
        if start[:4] != MAGIC:
            else_ = other_format(start) or f"is not a GGUF file: it begins with {start[:4]!r}"
            raise GroundupError(f"'{self.path}' {else_ if start else 'is empty (0 bytes): download it again'}.")
        self.at = 4
        version = self._number("I", "the version")
        if version not in (2, 3):
            swapped = " (its bytes are in big-endian order)" if version in (2 << 24, 3 << 24) else ""
            self._fail(f"is of version {version}{swapped}; 2 and 3, little-endian, are read here")
        tensors = self._count("Q", "tensors", MAX_TENSORS, SMALLEST_TENSOR)
        keys = self._count("Q", "metadata entries", MAX_KEYS, SMALLEST_ENTRY)

        metadata: dict[str, Any] = {}
        for number in range(keys):
            key = self._string(f"key {number + 1} of {keys}", MAX_NAME)
            if key in metadata:
                self._fail(f"has the key {key[:80]!r} twice")
            metadata[key] = self._value(repr(key[:80]))

        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            self._fail(f"has general.alignment {repr(alignment)[:80]}: not a power of two up to {MAX_ALIGNMENT}")
        found: dict[str, tuple[tuple[int, ...], Kind, int]] = {}
        for number in range(tensors):
            name = self._string(f"the name of tensor {number + 1} of {tensors}", MAX_NAME)
            if name in found:
                self._fail(f"has the tensor {name[:80]!r} twice")
            found[name] = self._tensor(repr(name[:80]), alignment)
        return metadata, self._place(found, -(-self.at // alignment) * alignment)

    def _tensor(self, name: str, alignment: int) -> tuple[tuple[int, ...], Kind, int]:
        """Shape, kind, and offset from where the data begins."""
        count = self._number("I", f"the dimensions of {name}")
        if not 1 <= count <= MAX_DIMENSIONS:
            self._fail(f"gives {name} {count} dimensions; 1 to {MAX_DIMENSIONS} are possible")
        sizes = [self._number("Q", f"the dimensions of {name}") for _ in range(count)]
        if 0 in sizes or prod(sizes) >= MAX_ELEMENTS:
            self._fail(f"gives {name} the dimensions {sizes}, which is {'none' if 0 in sizes else 'too many'} numbers")
        kind = self._kind(self._number("I", f"the type of {name}"), name)
        if sizes[0] % kind.block:
            self._fail(f"gives {name} rows of {sizes[0]} numbers; {kind.name} has blocks of {kind.block}")
        offset = self._number("Q", f"the offset of {name}")
        if offset % alignment:
            self._fail(f"puts {name} at {offset}, not a multiple of the alignment {alignment}")
        return tuple(reversed(sizes)), kind, offset

    def _place(self, found: dict[str, tuple[tuple[int, ...], Kind, int]], begin: int) -> dict[str, Entry]:
        """The tensors' ranges in the file, each inside it and none over another."""
        entries = {}
        for name, (shape, kind, offset) in found.items():
            size = prod(shape) // kind.block * kind.size
            if begin + offset + size > self.size:
                self._fail(
                    f"ends at byte {self.size}, but {name[:80]!r} needs {size} bytes from {begin + offset}. "
                    "Was it copied or downloaded in full?"
                )
            entries[name] = Entry(shape, kind, begin + offset, size)
        ordered = sorted(entries.items(), key=lambda item: item[1].start)
        for (first, before), (second, after) in pairwise(ordered):
            if before.start + before.size > after.start:
                self._fail(f"has {first[:80]!r} and {second[:80]!r} over each other")
        return entries

    def _kind(self, number: int, name: str) -> Kind:
        if number in KINDS:
            return KINDS[number]
        from gguf import GGMLQuantizationType

        known = {int(kind): kind.name for kind in GGMLQuantizationType}
        self._fail(
            f"stores {name} as {known.get(number, f'type {number}')}, which is not read here. "
            f"Take a file with {', '.join(kind.name for kind in KINDS.values())}"
        )

    def _value(self, key: str) -> Any:
        kind = self._number("I", f"the type of {key}")
        if kind == STRING:
            return self._string(key, MAX_HEADER)
        if kind in SCALARS:
            return self._scalars(kind, 1, key)[0]
        if kind != ARRAY:
            self._fail(f"gives {key} the unknown type {kind}")
        kind = self._number("I", f"the type of {key}")
        if kind != STRING and kind not in SCALARS:
            self._fail(f"has in {key} an array of {'arrays' if kind == ARRAY else f'the unknown type {kind}'}")
        least = 8 if kind == STRING else struct.calcsize(SCALARS[kind])
        count = self._count("Q", f"items in {key}", MAX_ITEMS, least)
        self.items += count
        if self.items > MAX_ITEMS:
            self._fail(f"has more than {MAX_ITEMS} items in its arrays, the last of them in {key}")
        return self._strings(count, key) if kind == STRING else self._scalars(kind, count, key)

    def _scalars(self, kind: int, count: int, key: str) -> list[Any]:
        layout = struct.Struct(f"<{count}{'B' if kind == BOOL else SCALARS[kind]}")
        self._need(layout.size, key)
        values = list(layout.unpack_from(self.data, self.at))
        self.at += layout.size
        if kind != BOOL:
            return values
        if any(value > 1 for value in values):
            self._fail(f"has in {key} a truth value that is neither 0 nor 1")
        return [value == 1 for value in values]

    def _strings(self, count: int, key: str) -> list[str]:
        """One tight loop: a vocabulary has a hundred thousand of them."""
        data, at, end = self.data, self.at, self.end
        length_at = struct.Struct("<Q").unpack_from
        values: list[str] = []
        try:
            for _ in range(count):
                (length,) = length_at(data, at)
                at += 8
                if length > end - at:
                    self._short(length, at, f"item {len(values) + 1} of {count} in {key}")
                values.append(str(data[at : at + length], "utf-8"))
                at += length
        except struct.error:
            self._short(8, at, f"item {len(values) + 1} of {count} in {key}")
        except UnicodeDecodeError:
            self._fail(f"has in {key}, item {len(values) + 1}, bytes that are not UTF-8")
        self.at = at
        return values

    def _string(self, what: str, limit: int) -> str:
        length = self._number("Q", what)
        if length > limit:
            self._fail(f"gives {what} {length} bytes; {limit} are the most that is read")
        self._need(length, what)
        raw = self.data[self.at : self.at + length]
        self.at += length
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError:
            self._fail(f"has in {what} bytes that are not UTF-8")

    def _number(self, code: str, what: str) -> int:
        size = struct.calcsize(f"<{code}")
        self._need(size, what)
        (value,) = struct.unpack_from(f"<{code}", self.data, self.at)
        self.at += size
        return int(value)

    def _count(self, code: str, what: str, limit: int, least: int) -> int:
        """A count of things that take at least `least` bytes each."""
        count = self._number(code, f"the number of {what}")
        if count > limit:
            self._fail(f"claims {count} {what}; {limit} are the most that is read")
        self._need(count * least, f"{count} {what}")
        return count

    def _need(self, size: int, what: str) -> None:
        if size > self.end - self.at:
            self._short(size, self.at, what)

    def _short(self, size: int, at: int, what: str) -> NoReturn:
        where = f"ends at byte {self.size}" if self.end == self.size else f"has a header above {MAX_HEADER} bytes"
        self._fail(f"{where}, but {what} needs {size} bytes from {at}")

    def _fail(self, what: str) -> NoReturn:
        raise GroundupError(f"'{self.path}' {what}.")
