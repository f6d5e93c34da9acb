"""GGUF files (llama.cpp's format): tensors as PyTorch has them, blocks of quantized weights made float32.

The header is read and checked by `gguf_header`; blocks are unpacked by the package `gguf`.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from groundup.checkpoints.gguf_header import Entry, Header
from groundup.checkpoints.source import Content, fingerprint, shown
from groundup.core.errors import GroundupError

STRIP = 2**16
"""Numbers that are unpacked at once, so that the package, which holds all of them twice meanwhile, needs little."""


class GGUF:
    """An open GGUF file (a Source): `metadata` as typed Python values, and tensors that are read when asked for."""

    def __init__(
        self, path: Path, data: mmap.mmap | bytes, metadata: dict[str, Any], entries: dict[str, Entry]
    ) -> None:
        self.path = path
        self.metadata = metadata
        self.names = list(entries)
        self._data = data
        self._entries = entries

    def shape(self, name: str) -> tuple[int, ...]:
        """In torch's order: [out, in] for a matrix."""
        return self._entry(name).shape

    def dtype(self, name: str) -> torch.dtype | str:
        """The number format in the file: a torch.dtype, or the name of a kind of blocks such as "Q4_1"."""
        kind = self._entry(name).kind
        return kind.dtype or kind.name

    def read(self, name: str) -> Tensor:
        """The tensor: a private view of the file where torch has its type, else unpacked to float32."""
        entry = self._entry(name)
        raw = np.frombuffer(self._data, np.uint8, entry.size, entry.start)
        if entry.kind.dtype is None:
            return torch.from_numpy(_unpack(raw, entry))
        if entry.start % entry.kind.size:  # a file aligned to less than its numbers are wide
            raw = raw.copy()
        return torch.from_numpy(raw).view(entry.kind.dtype).view(entry.shape)

    def blocks(self, name: str) -> Tensor:
        """The bytes of a matrix that is kept in blocks: uint8 [out, bytes of a row], memory of their own."""
        entry = self._entry(name)
        return torch.from_numpy(np.fromfile(self.path, np.uint8, entry.size, offset=entry.start)).view(
            entry.shape[0], -1
        )

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Every tensor by its name, read when it is asked for."""
        return _Read(self)

    def fingerprint(self) -> str:
        """The identity of the tensors, as of every source; the metadata does not count."""
        data = memoryview(self._data)
        return fingerprint(
            {
                name: Content(entry.kind.name, entry.shape, data[entry.start : entry.start + entry.size])
                for name, entry in self._entries.items()
            }
        )

    def _entry(self, name: str) -> Entry:
        if name not in self._entries:
            raise GroundupError(f"'{self.path}' has no tensor {shown(name)}.")
        return self._entries[name]


class _Read(Mapping[str, Tensor]):
    def __init__(self, source: GGUF) -> None:
        self.source = source

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.source._entries:
            raise KeyError(name)
        return self.source.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.source.names)

    def __len__(self) -> int:
        return len(self.source.names)

    def __contains__(self, name: object) -> bool:
        return name in self.source._entries


def _unpack(raw: np.ndarray, entry: Entry) -> np.ndarray:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    kind, size = GGMLQuantizationType[entry.kind.name], entry.kind.size
    numbers = np.empty(entry.size // size * entry.kind.block, np.float32)
    blocks = STRIP // entry.kind.block
    with np.errstate(all="ignore"):  # a scale that is no number gives weights that are none, and the reader sees them
        for first in range(0, entry.size // size, blocks):
            strip = raw[first * size : (first + blocks) * size]
            at = first * entry.kind.block
            numbers[at : at + STRIP] = dequantize(strip[None], kind)[0]
    return numbers.reshape(entry.shape)


def open_gguf(path: str | Path) -> GGUF:
    """Opens a GGUF file and reads its header; the tensors stay on disk, mapped copy-on-write.

    GroundupError: the file cannot be read, is not GGUF, contradicts itself or its size, or stores a tensor in a way
    that is not known here. The message names the place.
    """
    path = Path(path)
    try:
        if not path.is_file():  # opening a pipe would wait for its other end
            raise GroundupError(f"'{path}' is not a file. Give the path of a .gguf file.")
        with path.open("rb") as file:
            size = path.stat().st_size
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) if size else b""
    except (OSError, ValueError) as error:
        raise GroundupError(f"'{path}' cannot be read ({error}).") from None
    return GGUF(path, data, *Header(path, data).parse())
