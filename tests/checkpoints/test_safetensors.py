"""The safetensors library reads what we write, and we read what it writes."""

import json
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors import torch as reference
from torch import Tensor

from groundup.checkpoints import source
from groundup.checkpoints.layout import INDEX, SINGLE
from groundup.checkpoints.safetensors import Safetensors, open_safetensors, write_safetensors
from groundup.checkpoints.safetensors_header import DTYPES
from groundup.checkpoints.source import Source
from groundup.core.errors import GroundupError, UsageError

SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)


def inside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def content(tensor: Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    """What must be equal, also for NaNs and for formats that PyTorch cannot compare."""
    return (
        tensor.dtype,
        tuple(tensor.shape),
        tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(),
    )


def contents(tensors: dict[str, Tensor]) -> dict[str, tuple[torch.dtype, tuple[int, ...], bytes]]:
    return {name: content(tensor) for name, tensor in tensors.items()}


def read_all(opened: Source) -> dict[str, Tensor]:
    return {name: opened.read(name) for name in opened.names}


def random(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Any bytes at all, so NaNs and subnormal numbers too; 0 and 1 for bool."""
    count = torch.Size(shape).numel() * dtype.itemsize
    high = 2 if dtype == torch.bool else 256
    raw = torch.randint(0, high, (count,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return raw.view(dtype).reshape(shape)


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, Tensor]:
    names = draw(st.lists(st.text(max_size=8).filter(lambda n: n != "__metadata__"), max_size=5, unique=True))
    return {
        name: random(draw(SHAPES), draw(st.sampled_from(sorted(DTYPES.values(), key=str))), draw(st.integers(0, 99)))
        for name in names
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


# -------------------------------------------------------------------------------------------------------- the oracle


@settings(deadline=None)
@given(tensors())
def test_the_library_reads_what_we_write(place: Path, given_: dict[str, Tensor]) -> None:
    path = place / "ours.safetensors"
    assert write_safetensors(path, given_, {"format": "pt", "ü": "ß"}) == [path]
    assert contents(reference.load_file(path)) == contents(given_)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "ü": "ß"}


@settings(deadline=None)
@given(tensors())
def test_we_read_what_the_library_writes(place: Path, given_: dict[str, Tensor]) -> None:
    path = place / "theirs.safetensors"
    reference.save_file(given_, path, {"who": "they"})
    opened = open_safetensors(path)
    assert contents(read_all(opened)) == contents(given_)
    assert opened.metadata == {"who": "they"}


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 5), (1,), (7, 3)])
def test_every_format_and_shape_goes_round(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = random(shape, dtype, seed=5)
    write_safetensors(tmp_path / "x.safetensors", {"a": tensor, "b": tensor})
    opened = open_safetensors(tmp_path / "x.safetensors")
    assert (opened.shape("b"), opened.dtype("b")) == (shape, dtype)
    assert content(opened.read("b")) == content(tensor) == content(reference.load_file(opened._files[0].path)["b"])


def test_without_metadata_the_library_takes_it_for_pytorch(tmp_path: Path) -> None:
    write_safetensors(tmp_path, {"a": torch.ones(3)})
    with safe_open(tmp_path / SINGLE, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    write_safetensors(tmp_path, {"a": torch.ones(3)}, {})
    with safe_open(tmp_path / SINGLE, "pt") as file:
        assert file.metadata() is None


@pytest.mark.parametrize("length", range(96, 520, 8))
def test_any_length_of_the_header_is_no_pickle(tmp_path: Path, length: int) -> None:
    header = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'.ljust(length)
    (tmp_path / "x.safetensors").write_bytes(length.to_bytes(8, "little") + header + b"\x09")
    assert open_safetensors(tmp_path / "x.safetensors").read("a").tolist() == [9]


# ------------------------------------------------------------------------------------------------------------ layouts


@pytest.mark.parametrize(
    "make",
    [
        lambda t: t.t(),
        lambda t: t[::2, 1:],
        lambda t: t[:1].expand(5, -1),
        lambda t: torch.nn.Parameter(t),
        lambda t: torch.complex(t, t).conj(),
        lambda t: torch.complex(t, t).conj().imag,
    ],
    ids=["transposed", "strided", "expanded", "parameter", "conjugate", "negative"],
)
def test_views_are_written_as_what_they_show(tmp_path: Path, make: Callable[[Tensor], Tensor]) -> None:
    view = make(torch.arange(15.0).reshape(5, 3))
    write_safetensors(tmp_path, {"a": view})
    found = open_safetensors(tmp_path).read("a")
    assert torch.equal(found, view.detach())
    assert found.is_contiguous() and not found.requires_grad


def test_packed_files_with_odd_offsets_are_read(tmp_path: Path) -> None:
    values = torch.tensor([1.5, -2.25, 3e30])
    header = json.dumps(
        {
            "a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
            "b": {"dtype": "F32", "shape": [3], "data_offsets": [3, 15]},
        }
    ).encode()
    data = bytes([7, 8, 9]) + values.numpy().tobytes()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)
    opened = open_safetensors(tmp_path / "x.safetensors")
    assert opened.read("a").tolist() == [7, 8, 9]
    assert torch.equal(opened.read("b"), values)


# ----------------------------------------------------------------------------------------------- lazy, and kept alive


def test_tensors_outlive_the_source_and_the_file_and_never_change_it(tmp_path: Path) -> None:
    write_safetensors(tmp_path, {"a": torch.arange(5.0)})
    before = (tmp_path / SINGLE).read_bytes()
    tensor = open_safetensors(tmp_path).read("a")
    tensor.mul_(2)
    assert (tmp_path / SINGLE).read_bytes() == before
    (tmp_path / SINGLE).unlink()
    assert tensor.tolist() == [0, 2, 4, 6, 8]


def test_reading_copies_nothing(tmp_path: Path) -> None:
    write_safetensors(tmp_path, {"a": torch.arange(5.0)})
    opened = open_safetensors(tmp_path)
    assert opened.read("a").data_ptr() == opened.read("a").data_ptr()


def test_a_file_may_be_written_over_itself(tmp_path: Path) -> None:
    write_safetensors(tmp_path, {"a": torch.arange(50_000.0), "b": torch.arange(3)})
    opened = open_safetensors(tmp_path)
    write_safetensors(tmp_path, {"c": opened.read("a"), "d": opened.read("b")})
    assert torch.equal(open_safetensors(tmp_path).read("c"), torch.arange(50_000.0))
    assert torch.equal(opened.read("a"), torch.arange(50_000.0))


def test_opening_a_large_file_reads_the_header_alone(tmp_path: Path) -> None:
    """The file is sparse: a gigabyte that takes no room on the disk, and no memory until it is read."""
    size = 1 << 30
    header = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    with (tmp_path / "x.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    opened = open_safetensors(tmp_path / "x.safetensors")
    assert opened.read("a")[-3:].tolist() == [0, 0, 0]


# ------------------------------------------------------------------------------------------------------------- shards


def many() -> dict[str, Tensor]:
    return {f"h.{i}.w": torch.randn(3, i, generator=torch.Generator().manual_seed(i)) for i in range(1, 8)}


def test_shards_are_what_transformers_expects(tmp_path: Path) -> None:
    files = write_safetensors(tmp_path / "new", many(), max_shard_bytes=100)
    index = json.loads((tmp_path / "new" / INDEX).read_text())
    assert index["metadata"] == {"total_size": sum(tensor.nbytes for tensor in many().values())}
    assert index["weight_map"]["h.1.w"] == f"model-00001-of-{len(files) - 1:05}.safetensors"
    assert inside(tmp_path / "new") == sorted(file.name for file in files)
    found = {}
    for file in files[:-1]:
        part = reference.load_file(file)
        assert sum(tensor.nbytes for tensor in part.values()) <= 100 or len(part) == 1
        found |= part
    assert contents(found) == contents(many())


def test_shards_are_read_as_one(tmp_path: Path) -> None:
    *_, index = write_safetensors(tmp_path, many(), {"format": "pt", "a": "b"}, max_shard_bytes=100)
    for place in (tmp_path, index):
        opened = open_safetensors(place)
        assert contents(read_all(opened)) == contents(many())
        assert opened.metadata == {"format": "pt", "a": "b"}
        assert isinstance(opened, Source)


def test_a_model_that_fits_is_one_file(tmp_path: Path) -> None:
    total = sum(tensor.nbytes for tensor in many().values())
    assert write_safetensors(tmp_path / "a", many(), max_shard_bytes=total) == [tmp_path / "a" / SINGLE]
    assert len(write_safetensors(tmp_path / "b", many(), max_shard_bytes=total - 1)) == 3


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    backwards = dict(reversed(many().items()))
    write_safetensors(tmp_path / "a.safetensors", many(), {"x": "1", "y": "2"})
    write_safetensors(tmp_path / "b.safetensors", backwards, {"y": "2", "x": "1"})
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_nothing_is_written_over_shards(tmp_path: Path) -> None:
    write_safetensors(tmp_path, many(), max_shard_bytes=100)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    for limit in (100, 10_000):
        with pytest.raises(UsageError, match="give a new folder"):
            write_safetensors(tmp_path, {"a": torch.ones(60)}, max_shard_bytes=limit)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_safetensors(tmp_path, {"a": torch.ones(2)})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(GroundupError, match=r"model\.safetensors: No space left on device"):
        write_safetensors(tmp_path, {"a": torch.zeros(2)})
    assert open_safetensors(tmp_path).read("a").tolist() == [1, 1]
    assert inside(tmp_path) == [SINGLE]


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("a", torch.ones(2, device="meta")),
        ("a", torch.eye(3).to_sparse()),
        ("a", torch.ones(2, dtype=torch.complex128)),
        ("__metadata__", torch.ones(2)),
    ],
    ids=["meta", "sparse", "complex128", "reserved name"],
)
def test_what_the_format_cannot_hold_is_refused(tmp_path: Path, name: str, tensor: Tensor) -> None:
    with pytest.raises(UsageError, match=f"{name}.*cannot be written"):
        write_safetensors(tmp_path / "x.safetensors", {name: tensor})
    assert inside(tmp_path) == []


def test_a_limit_without_effect_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no effect"):
        write_safetensors(tmp_path / "x.safetensors", many(), max_shard_bytes=100)
    with pytest.raises(UsageError, match="at least 1"):
        write_safetensors(tmp_path, many(), max_shard_bytes=0)


# -------------------------------------------------------------------------------------------------------- fingerprint


def test_shards_notes_and_order_leave_the_fingerprint(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "one", many())
    write_safetensors(tmp_path / "many", dict(reversed(many().items())), {"by": "another"}, max_shard_bytes=100)
    assert len(inside(tmp_path / "many")) > 2
    reference.save_file(many(), tmp_path / "theirs.safetensors")
    found = {open_safetensors(tmp_path / name).fingerprint() for name in ("one", "many", "theirs.safetensors")}
    assert len(found) == 1 and len(found.pop()) == 64


@pytest.mark.parametrize(
    "tensors",
    [
        {"b": torch.zeros(2, 3)},
        {"a": torch.zeros(3, 2)},
        {"a": torch.zeros(2, 3, dtype=torch.int32)},
        {"a": -torch.zeros(2, 3)},
        {"a": torch.zeros(2, 3), "b": torch.zeros(0)},
    ],
    ids=["name", "shape", "format", "one bit", "an empty one"],
)
def test_whatever_makes_another_model_changes_the_fingerprint(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    write_safetensors(tmp_path / "first", {"a": torch.zeros(2, 3)})
    write_safetensors(tmp_path / "second", tensors)
    first, second = (open_safetensors(tmp_path / name).fingerprint() for name in ("first", "second"))
    assert first != second


def changed_at(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("limit", [None, 100])
def test_any_changed_byte_changes_the_fingerprint(tmp_path: Path, limit: int | None) -> None:
    write_safetensors(tmp_path, many(), max_shard_bytes=limit)
    first = open_safetensors(tmp_path).fingerprint()
    assert open_safetensors(tmp_path).fingerprint() == first
    file = sorted(tmp_path.glob("*.safetensors"))[-1]
    changed_at(file, -1)
    second = open_safetensors(tmp_path).fingerprint()
    changed_at(file, -1)
    assert first != second
    assert open_safetensors(tmp_path).fingerprint() == first


def test_of_a_large_source_each_tensor_is_sampled_from_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "WHOLE", 1024)
    monkeypatch.setattr(source, "BLOCK", 16)
    monkeypatch.setattr(source, "HEAD", 4)
    write_safetensors(tmp_path, {"a": torch.arange(2000.0), "z": torch.arange(9, dtype=torch.uint8)})
    path, found = tmp_path / SINGLE, set()
    found.add(open_safetensors(tmp_path).fingerprint())
    start, end = path.stat().st_size - 9 - 8000, path.stat().st_size - 9
    read = (start, start + 15, end - 1, end - 16, start + (8000 - 16) // 14 * 7 + 4, end)
    for count, position in enumerate(read, 2):
        changed_at(path, position)
        found.add(open_safetensors(tmp_path).fingerprint())
        assert len(found) == count, position
    assert all(name.startswith("sampled:") for name in found)


def test_sampling_reads_a_quarter_and_never_beyond(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [1, 5000, 3 << 20, 700 << 20, 900 << 20]
    total = sum(sizes)
    for size in sizes:
        pieces = list(source._read(size, total))
        assert all(0 <= begin < end <= size for begin, end in pieces)
        assert all(first[1] <= second[0] for first, second in pairwise(pieces))
        read = sum(end - begin for begin, end in pieces)
        assert read <= max(source.HEAD, size * source.WHOLE / 4 / total)


def test_an_unknown_name_is_an_error_of_one_line(tmp_path: Path) -> None:
    write_safetensors(tmp_path, many())
    opened = open_safetensors(tmp_path)
    assert isinstance(opened, Safetensors)
    for ask in (opened.read, opened.shape, opened.dtype):
        with pytest.raises(GroundupError, match=r"model\.safetensors has no tensor 'wte'"):
            ask("wte")
