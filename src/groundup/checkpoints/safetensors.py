"""The safetensors format: one file, or a folder with shards and their index.

    8 bytes   length of the header, little endian
    header    JSON: {"name": {"dtype": "F32", "shape": [out, in], "data_offsets": [begin, end]}, ...,
              "__metadata__": {"format": "pt"}}
    data      the tensors side by side, row-major, little endian; offsets count from here

Every claim of the header is held against the file before a tensor is made, and tensors are views of the file mapped
into memory: what is not read costs nothing. Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from groundup.checkpoints import source
from groundup.core.errors import GroundupError, UsageError
from groundup.core.files import explained, parse_json, read_json, replacing, write_json

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
METADATA = "__metadata__"

MAX_HEADER = 100_000_000  # bytes; the format's own limit
MAX_TENSORS = 200_000  # in one file; the largest models keep some 100,000 in all of their shards
MAX_SHARDS = 10_000
MAX_AXES = 32
SHARD_BYTES = 5_000_000_000

UNSAFE = (
    "opening such a file can run code, so it is never done. Take the model's .safetensors, or convert it in a "
    "sandbox with transformers: from_pretrained(...).save_pretrained(...)"
)

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


# ------------------------------------------------------------------------------------------------------------- reading


class SafetensorsFile:
    """One checked file, mapped into memory. The mapping lives as long as any tensor that was read from it."""

    def __init__(self, path: Path):
        with explained(path):
            if path.exists() and not path.is_file():  # opening a pipe would wait for its other end
                raise GroundupError(f"{path} is not a file")
        with explained(path), path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            header = _header(file, size, path)
            self.path = path
            self.header_bytes = 8 + len(header)
            self.entries, self.metadata = _check(_parse(header, path), self.header_bytes, size, path)
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
            raise GroundupError(f"{self.path}: {_shown(name)} is BOOL but has bytes other than 0 and 1")
        return tensor.reshape(entry.shape)


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
        return source.fingerprint([(file.path, file.header_bytes) for file in self._files])

    def _file(self, name: str) -> SafetensorsFile:
        if name not in self._home:
            where = self._files[0].path if len(self._files) == 1 else self._files[0].path.parent
            raise GroundupError(f"{where} has no tensor {_shown(name)}")
        return self._home[name]


def open_safetensors(path: str | Path) -> Safetensors:
    """Open a .safetensors file, an index, or a folder with model.safetensors or model.safetensors.index.json.

    With both, a folder's model.safetensors counts, as in transformers. Headers are read and checked, no weights yet.
    Raises GroundupError, naming the file and the number, for whatever does not agree with itself.
    """
    place = Path(path)
    with explained(path):
        folder = place.is_dir()
    if not folder:
        if place.name.endswith(".index.json"):
            return Safetensors(_shards(place))
        return Safetensors([SafetensorsFile(place)])
    if _present(place / SINGLE):
        return Safetensors([SafetensorsFile(_inside(place, SINGLE))])
    if _present(place / INDEX):
        return Safetensors(_shards(_inside(place, INDEX)))
    raise GroundupError(_nothing_in(place))


def _present(path: Path) -> bool:
    return path.is_symlink() or path.exists()


def _shards(index: Path) -> list[SafetensorsFile]:
    """The files that an index names, each holding exactly the tensors that the index says."""
    content = read_json(index, MAX_HEADER)
    placed = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(placed, dict) or not placed or not all(isinstance(file, str) for file in placed.values()):
        raise GroundupError(f'{index} is no index: it must map each tensor to its file under "weight_map"')
    expected: dict[str, set[str]] = {}
    for name, file in placed.items():
        expected.setdefault(file, set()).add(name)
    if len(expected) > MAX_SHARDS:
        raise GroundupError(f"{index} names {len(expected):,} files; at most {MAX_SHARDS:,} are read")
    paths = {file: _inside(index.parent, file) for file in sorted(expected)}  # all names before any file is opened
    files = []
    for file, path in paths.items():
        shard = SafetensorsFile(path)
        if missing := expected[file] - shard.entries.keys():
            raise GroundupError(f"{path} lacks {_some(missing)}, which {index.name} places there; download both again")
        if extra := shard.entries.keys() - expected[file]:
            raise GroundupError(f"{path} holds {_some(extra)}, which {index.name} does not place there")
        files.append(shard)
    return files


def _inside(folder: Path, name: str) -> Path:
    """The file `name` of `folder`: a plain name, and not a link out of it.

    In the cache of Hugging Face a snapshot's files are links into ../../blobs; there, links within the model's own
    folder are followed.
    """
    plain = name not in ("", ".", "..") and not any(c in "/\\:" or ord(c) < 32 for c in name)
    if not plain or not name.endswith((".safetensors", ".json")):
        raise GroundupError(f"{folder}: {_shown(name)} is not the plain name of a .safetensors file in this folder")
    path = folder / name
    try:
        target, root = path.resolve(strict=True), folder.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a circle of links, before Python 3.13
        raise GroundupError(f"{path} is missing; download or copy the model again") from error
    for above in root.parents:
        if above.name.startswith("models--") and root.relative_to(above).parts[0] == "snapshots":
            root = above
            break
    if not target.is_relative_to(root):
        raise GroundupError(f"{path} is a link that leads out of its folder; put the file itself there")
    return path


def _header(file: BinaryIO, size: int, path: Path) -> bytes:
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
    # only now: 0x80 is also how the length of a sound header may begin
    if start[:1] == b"\x80" or start[:2] == b"PK":
        raise GroundupError(f"{path} is a pickle or an archive under another name: {UNSAFE}")
    raise GroundupError(f"{path} {fault}; download or copy it again")


def _parse(header: bytes, path: Path) -> dict[str, Any]:
    where = f"The header of {path}"
    # every value in JSON costs one of these marks, so this bounds the memory that parsing takes
    marks = sum(header.count(mark) for mark in (b",", b"[", b"{"))
    if marks > 20 * MAX_TENSORS:
        raise GroundupError(f"{where} has {marks:,} commas and brackets: more than {MAX_TENSORS:,} tensors need")
    parsed = parse_json(header, where)
    if not isinstance(parsed, dict):
        raise GroundupError(f"{where} is not a JSON object")
    return parsed


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
                f"{path} is cut off or false: {_shown(name)} would end at byte {entry.end:,}, the file has {size:,}; "
                "download it again"
            )
        if entry.begin != position:
            fault = "overlaps another tensor" if entry.begin < position else "leaves a hole before it"
            raise GroundupError(f"{path}: {_shown(name)} at byte {entry.begin:,} {fault}, {position:,} was expected")
        position = entry.end
    if position != size:
        raise GroundupError(f"{path} has {size - position:,} bytes after its last tensor, where the file must end")
    return entries, metadata


def _entry(name: str, fields: Any, start: int, path: Path) -> Entry:
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise GroundupError(f"{path}: {_shown(name)} must have just dtype, shape and data_offsets")
    code, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        raise GroundupError(f"{path}: {_shown(name)} has dtype {_shown(code)}; known are {', '.join(DTYPES)}")
    if not _counts(shape) or len(shape) > MAX_AXES:
        raise GroundupError(f"{path}: the shape of {_shown(name)} is not a list of at most {MAX_AXES} sizes")
    # an axis of size 0 makes the tensor empty but not its strides, which PyTorch keeps in 64 bits
    if math.prod(max(1, axis) for axis in shape) >= 2**60:
        raise GroundupError(f"{path}: the shape of {_shown(name)} is larger than any file")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise GroundupError(f"{path}: the data_offsets of {_shown(name)} are not [begin, end]")
    needed = math.prod(shape) * DTYPES[code].itemsize
    if offsets[1] - offsets[0] != needed:
        raise GroundupError(
            f"{path}: {_shown(name)} is {code} {shape}, which takes {needed:,} bytes, but data_offsets give it "
            f"{offsets[1] - offsets[0]:,}"
        )
    return Entry(DTYPES[code], tuple(shape), start + offsets[0], start + offsets[1])


def _counts(value: Any) -> bool:
    # type() and not isinstance(): true is no size
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**60 for n in value)


def _shown(name: Any) -> str:
    """What a file says, cut and with control characters escaped, fit for a terminal."""
    text = ascii(name)
    return text if len(text) <= 80 else text[:77] + "..."


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - 1:,} more" if len(ordered) > 1 else ""
    return f"{_shown(ordered[0])}{more}"


def _nothing_in(folder: Path) -> str:
    with explained(folder):
        names = sorted(path.name for path in folder.iterdir())
    if other := [name for name in names if name.endswith(".safetensors")]:
        return f"{folder} has neither {SINGLE} nor {INDEX}, but {_some(other)}; name the file itself to read it"
    if unsafe := [name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl"))]:
        return f"{folder} has its weights as {_some(unsafe)} only: {UNSAFE}"
    return f"{folder} has no weights: neither {SINGLE} nor {INDEX}"


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
    older = [file for file in (SINGLE, INDEX) if _present(place / file)]
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
