"""The safetensors format: one file, or a folder with shards and their index.

Tensors are views of the file mapped into memory, so that what is not read costs nothing. Whatever a header or an index
claims is checked before.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groundup.checkpoints.layout import INDEX, SINGLE, locate, present, some
from groundup.checkpoints.safetensors_header import CODES, MAX_HEADER, MAX_TENSORS, METADATA, read_header
from groundup.checkpoints.source import Content, fingerprint, shown
from groundup.core.errors import GroundupError, UsageError
from groundup.core.files import explained, replacing, write_json

SHARD_BYTES = 5_000_000_000


class SafetensorsFile:
    """One checked file, mapped into memory. The mapping lives as long as any tensor that was read from it."""

    def __init__(self, path: Path):
        with explained(path):
            if path.exists() and not path.is_file():  # opening a pipe would wait for its other end
                raise GroundupError(f"{path} is not a file")
        with explained(path), path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            header = read_header(file, size, path)
            self.path, self.entries, self.metadata = path, header.entries, header.metadata
            # private copy-on-write: PyTorch may write to such tensors, the file never changes
            self._map = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)

    def read(self, name: str) -> Tensor:
        entry = self.entries[name]
        count = math.prod(entry.shape)
        if not count:
            return torch.empty(entry.shape, dtype=entry.dtype)
        if entry.begin % entry.dtype.itemsize:  # a packed file: PyTorch's kernels expect aligned memory
            tensor = torch.frombuffer(bytearray(self._map[entry.begin : entry.end]), dtype=entry.dtype)
        else:
            tensor = torch.frombuffer(self._map, dtype=entry.dtype, count=count, offset=entry.begin)
        if entry.dtype == torch.bool and bool((tensor.view(torch.uint8) > 1).any()):
            raise GroundupError(f"{self.path}: {shown(name)} is BOOL but has bytes other than 0 and 1")
        return tensor.reshape(entry.shape)

    def content(self, name: str) -> Content:
        entry = self.entries[name]
        return Content(CODES[entry.dtype], entry.shape, memoryview(self._map)[entry.begin : entry.end])


class Safetensors:
    """A `Source` over one file or several. Tensors of one name share memory: copy before changing one in place."""

    def __init__(self, files: Sequence[SafetensorsFile]):
        self._files = list(files)
        self._home = {name: file for file in files for name in file.entries}

    @property
    def names(self) -> list[str]:
        return list(self._home)

    @property
    def metadata(self) -> dict[str, str]:
        """The `__metadata__` of the file; where shards disagree, the first one's."""
        return {key: value for file in reversed(self._files) for key, value in file.metadata.items()}

    def shape(self, name: str) -> tuple[int, ...]:
        return self._file(name).entries[name].shape

    def dtype(self, name: str) -> torch.dtype:
        return self._file(name).entries[name].dtype

    def read(self, name: str) -> Tensor:
        return self._file(name).read(name)

    def fingerprint(self) -> str:
        return fingerprint({name: file.content(name) for name, file in self._home.items()})

    def _file(self, name: str) -> SafetensorsFile:
        if name not in self._home:
            where = self._files[0].path if len(self._files) == 1 else self._files[0].path.parent
            raise GroundupError(f"{where} has no tensor {shown(name)}")
        return self._home[name]


def open_safetensors(path: str | Path) -> Safetensors:
    """Open a .safetensors file, an index, or a folder with model.safetensors or model.safetensors.index.json.

    Headers are read and checked, no weights yet. Raises GroundupError, naming the file and the number, for whatever
    does not agree with itself: each tensor must be in the one file where the index places it, and no other beside it.
    """
    files = []
    for place, expected in locate(Path(path)).items():
        file = SafetensorsFile(place)
        if expected is not None and (missing := expected - file.entries.keys()):
            raise GroundupError(f"{place} lacks {some(missing)}, which the index places there; download both again")
        if expected is not None and (extra := file.entries.keys() - expected):
            raise GroundupError(f"{place} holds {some(extra)}, which the index does not place there")
        files.append(file)
    return Safetensors(files)


# ------------------------------------------------------------------------------------------------------------- writing


def write_safetensors(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    max_shard_bytes: int | None = None,
) -> list[Path]:
    """Write a file (a path that ends in .safetensors) or into a folder: model.safetensors, or shards and their index.

    A folder's files hold up to `max_shard_bytes` (5 GB unless said) of tensors, at least one. Each file is replaced
    atomically, the index written last; the same input gives the same bytes. `metadata` is {"format": "pt"} unless
    said. A tensor under two names is written twice: leave one out. Gives the files written.
    Raises UsageError for what the format cannot hold, and for shards where a folder has other weights already.
    """
    place = Path(path)
    notes = {"format": "pt"} if metadata is None else dict(metadata)
    for name, tensor in tensors.items():
        if name == METADATA or tensor.layout != torch.strided or tensor.is_meta or tensor.dtype not in CODES:
            raise UsageError(f"{name} ({tensor.dtype}, on {tensor.device}) cannot be written to {place} as safetensors")
    if place.name.endswith(".safetensors"):
        if max_shard_bytes is not None:
            raise UsageError(f"{place} is one file, so max_shard_bytes has no effect; give a folder")
        _write_file(place, tensors, notes)
        return [place]

    groups = _groups(tensors, SHARD_BYTES if max_shard_bytes is None else max_shard_bytes)
    older = [file for file in (SINGLE, INDEX) if present(place / file)]
    if older and (len(groups) > 1 or INDEX in older):
        # no order of single replacements is safe against a crash between two of them
        raise UsageError(f"{place} has {older[0]} already and the weights are in several files; give a new folder")
    if len(groups) == 1:
        _write_file(place / SINGLE, tensors, notes)
        return [place / SINGLE]
    files = [place / f"model-{i + 1:05}-of-{len(groups):05}.safetensors" for i in range(len(groups))]
    for file, group in zip(files, groups, strict=True):
        _write_file(file, {name: tensors[name] for name in group}, notes)
    placed = {name: file.name for file, group in zip(files, groups, strict=True) for name in group}
    total = sum(tensor.nbytes for tensor in tensors.values())
    write_json(place / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(placed.items()))})
    return [*files, place / INDEX]


def _groups(tensors: Mapping[str, Tensor], limit: int) -> list[list[str]]:
    """The names in their order, cut wherever one more tensor would pass `limit` bytes."""
    if limit < 1:
        raise UsageError(f"max_shard_bytes is {limit}; it must be at least 1")
    groups: list[list[str]] = [[]]
    held = 0
    for name, tensor in tensors.items():
        if groups[-1] and held + tensor.nbytes > limit:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += tensor.nbytes
    return groups


def _write_file(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    # large items first: then every tensor starts at a multiple of its item's size
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    entries: dict[str, Any] = {METADATA: dict(sorted(metadata.items()))} if metadata else {}
    position = 0
    for name in names:
        tensor = tensors[name]
        ends = [position, position + tensor.nbytes]
        entries[name] = {"dtype": CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": ends}
        position = ends[1]
    header = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    header += b" " * (-len(header) % 8)
    if len(header) > MAX_HEADER or len(tensors) > MAX_TENSORS:
        raise UsageError(f"{path} would have a header of {len(header):,} bytes for {len(tensors):,} tensors: too large")
    with explained(path), replacing(path) as temporary, temporary.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name in names:
            file.write(_bytes(tensors[name]))


def _bytes(tensor: Tensor) -> memoryview:
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().data
