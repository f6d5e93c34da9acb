"""GGUF files that lie: each is refused in one line, in no time and without memory to speak of."""

from __future__ import annotations

import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.checkpoints import gguf_header as reader
from groundup.checkpoints.gguf import GGUF, open_gguf
from groundup.core.errors import GroundupError

U8, U32, BOOL, STRING, ARRAY, U64 = 0, 4, 7, 8, 9, 10
HUGE = 2**63


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def text(value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return u64(len(raw)) + raw


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + u32(kind) + value


def tensor(name: str, dims: list[int], kind: int = 0, offset: int = 0, count: int | None = None) -> bytes:
    return text(name) + u32(len(dims) if count is None else count) + b"".join(map(u64, dims)) + u32(kind) + u64(offset)


def build(
    keys: list[bytes] = [],  # noqa: B006
    tensors: list[bytes] = [],  # noqa: B006
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    n_keys: int | None = None,
    n_tensors: int | None = None,
    data: int = 256,
) -> bytes:
    counts = u64(len(tensors) if n_tensors is None else n_tensors) + u64(len(keys) if n_keys is None else n_keys)
    header = magic + u32(version) + counts + b"".join(keys) + b"".join(tensors)
    return header + bytes(-len(header) % 32) + bytes(data)


GOOD = build([key("a", U32, u32(7))], [tensor("x", [7, 3]), tensor("y", [5], offset=96)])
LIES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty (0 bytes)"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "pickle": (b"\x80\x02}q\x00.", "is a pickle or an archive"),
    "archive": (b"PK\x03\x04" + bytes(30), "is a pickle or an archive"),
    "magic": (build(magic=b"GGML"), "begins with b'GGML'"),
    "only the magic": (b"GGUF", "the version needs 4 bytes"),
    "version 1": (build(version=1), "version 1"),
    "big-endian": (build(version=3 << 24), "big-endian"),
    "2**60 keys": (build(n_keys=2**60), f"claims {2**60} metadata entries"),
    "2**16 keys": (build(n_keys=2**16), "ends at byte"),
    "2**60 tensors": (build(n_tensors=2**60), f"claims {2**60} tensors"),
    "2**17 tensors": (build(n_tensors=2**17), "ends at byte"),
    "key of 2**63 bytes": (build([u64(HUGE)]), f"{HUGE} bytes"),
    "key of 2**64-1 bytes": (build([u64(2**64 - 1)]), "bytes"),
    "text of 2**63 bytes": (build([key("a", STRING, u64(HUGE))]), f"'a' {HUGE} bytes"),
    "text past the end": (build([key("a", STRING, u64(10_000))]), "'a' needs 10000 bytes"),
    "type 13": (build([key("a", 13, b"")]), "unknown type 13"),
    "truth value 2": (build([key("a", BOOL, b"\x02")]), "neither 0 nor 1"),
    "no UTF-8": (build([key("a", STRING, text(b"\xff\xfe"))]), "not UTF-8"),
    "array of arrays": (build([key("a", ARRAY, u32(ARRAY) + u64(1))]), "array of arrays"),
    "array of type 99": (build([key("a", ARRAY, u32(99) + u64(1))]), "unknown type 99"),
    "array of 2**63 bytes": (build([key("a", ARRAY, u32(U8) + u64(HUGE))]), f"claims {HUGE} items"),
    "array times width wraps": (build([key("a", ARRAY, u32(U64) + u64(2**61))]), "items in 'a'"),
    "array past the end": (build([key("a", ARRAY, u32(U64) + u64(1000))]), "1000 items in 'a' needs 8000 bytes"),
    "texts past the end": (build([key("a", ARRAY, u32(STRING) + u64(2) + text("b") + u64(900))]), "item 2 of 2 in 'a'"),
    "text of 2**64-1 in array": (build([key("a", ARRAY, u32(STRING) + u64(1) + u64(2**64 - 1))]), "item 1 of 1"),
    "no UTF-8 in array": (build([key("a", ARRAY, u32(STRING) + u64(1) + text(b"\xff"))]), "not UTF-8"),
    "key twice": (build([key("a", U32, u32(1)), key("a", U32, u32(1))]), "the key 'a' twice"),
    "alignment 0": (build([key("general.alignment", U32, u32(0))]), "general.alignment 0"),
    "alignment 24": (build([key("general.alignment", U32, u32(24))]), "general.alignment 24"),
    "alignment 2**31": (build([key("general.alignment", U32, u32(2**31))]), "general.alignment"),
    "alignment true": (build([key("general.alignment", BOOL, b"\x01")]), "general.alignment True"),
    "alignment text": (build([key("general.alignment", STRING, text("32" * 99))]), "general.alignment '32"),
    "tensor twice": (build([], [tensor("x", [3]), tensor("x", [3], offset=32)]), "the tensor 'x' twice"),
    "no dimensions": (build([], [tensor("x", [])]), "0 dimensions"),
    "five dimensions": (build([], [tensor("x", [1] * 5)]), "5 dimensions"),
    "2**32-1 dimensions": (build([], [tensor("x", [], count=2**32 - 1)]), "dimensions"),
    "dimension 0": (build([], [tensor("x", [0, HUGE])]), "none numbers"),
    "product wraps to 0": (build([], [tensor("x", [2**32, 2**32])]), "too many numbers"),
    "product wraps to 4": (build([], [tensor("x", [2**62 + 1, 4])]), "too many numbers"),
    "rows of half a block": (build([], [tensor("x", [48], kind=8)]), "Q8_0 has blocks of 32"),
    "type 36": (build([], [tensor("x", [32], kind=36)]), "type 36"),
    "type 2**32-1": (build([], [tensor("x", [32], kind=2**32 - 1)]), "not read here"),
    "odd offset": (build([], [tensor("x", [3], offset=4)]), "not a multiple of the alignment"),
    "tensor past the end": (build([], [tensor("x", [65])]), "'x' needs 260 bytes"),
    "offset past the end": (build([], [tensor("x", [1], offset=256)]), "'x' needs 4 bytes"),
    "offset wraps": (build([], [tensor("x", [8], offset=2**64 - 32)]), "'x' needs 32 bytes"),
    "overlap": (build([], [tensor("x", [9]), tensor("y", [1], offset=32)]), "'x' and 'y' over each other"),
    "the same place": (build([], [tensor("x", [9]), tensor("y", [9])]), "over each other"),
}


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[bytes], GGUF]:
    def opened(content: bytes) -> GGUF:
        path = tmp_path / "m.gguf"
        path.write_bytes(content)
        return open_gguf(path)

    return opened


def test_an_honest_file_of_the_same_making_is_read(opened: Callable[[bytes], GGUF]) -> None:
    found = opened(GOOD)
    assert found.metadata == {"a": 7} and found.shape("x") == (3, 7) and found.shape("y") == (5,)
    assert torch.equal(found.read("y"), torch.zeros(5))
    assert opened(build([], [tensor("x", [64])])).shape("x") == (64,)  # to the last byte
    assert opened(build([], [tensor("y", [1], offset=32), tensor("x", [8])])).names == ["y", "x"]  # side by side


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused_in_one_line(lie: str, opened: Callable[[bytes], GGUF]) -> None:
    content, says = LIES[lie]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.perf_counter()
    with pytest.raises(GroundupError) as error:
        opened(content)
    assert time.perf_counter() - begin < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
    assert says in str(error.value) and "m.gguf" in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_many_arrays_do_not_add_up(opened: Callable[[bytes], GGUF], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_ITEMS", 50)
    keys = [key(f"a{i}", ARRAY, u32(U8) + u64(30) + bytes(30)) for i in range(2)]
    opened(build(keys[:1]))
    with pytest.raises(GroundupError, match="more than 50 items in its arrays, the last of them in 'a1'"):
        opened(build(keys))


def test_a_header_has_an_end(opened: Callable[[bytes], GGUF], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_HEADER", 200)
    opened(build([key("a", STRING, text("x" * 150))]))
    with pytest.raises(GroundupError, match="a header above 200 bytes"):
        opened(build([key("a", STRING, text("x" * 190))]))


def test_what_is_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.gguf", Path("/dev/zero")):
        with pytest.raises(GroundupError, match="is not a file"):
            open_gguf(path)
    with pytest.raises(GroundupError, match="File name too long"):
        open_gguf(tmp_path / ("a" * 300))


def real(path: Path) -> bytes:
    """A small file of the public package's making, with every kind of block."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_array("words", ["a", "bc", "🙂"])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_bool("yes", True)
    writer.add_float32("eps", 1e-5)
    for kind in reader.KINDS.values():
        data = np.random.default_rng(0).integers(0, 256, (2, kind.size * (1 if kind.block > 1 else 3)), np.uint8)
        if kind.name in ("F32", "F16"):
            data = data.view(np.float32 if kind.name == "F32" else np.float16)
            writer.add_tensor(f"t.{kind.name}", data)
        else:
            writer.add_tensor(f"t.{kind.name}", data, raw_dtype=gguf.GGMLQuantizationType[kind.name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Path]:
    folder = tmp_path_factory.mktemp("gguf")
    return real(folder / "honest.gguf"), folder


def survives(content: bytes, path: Path) -> bool:
    """Refused by a GroundupError of one line (False), or read to the last tensor (True); anything else escapes."""
    path.write_bytes(content)
    try:
        found = open_gguf(path)
        for name in found.names:
            assert found.read(name).shape == found.shape(name)
    except GroundupError as error:
        assert "\n" not in str(error)
        return False
    return True


def test_every_cut_of_the_header_is_refused(honest: tuple[bytes, Path]) -> None:
    content, folder = honest
    assert survives(content, folder / "whole.gguf")
    header = content.index(b"t.Q6_K") + 40
    for length in range(header):
        assert not survives(content[:length], folder / "cut.gguf"), length


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_flipped_and_cut_files_are_read_or_refused(honest: tuple[bytes, Path], data: st.DataObject) -> None:
    content, folder = honest
    changed = bytearray(content)
    header = content.index(b"t.Q6_K") + 40
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, header))
        width = data.draw(st.sampled_from([1, 4, 8]))
        special = st.sampled_from([0, 1, 2**7, 2**31, 2**32 - 1, 2**61, 2**63, 2**64 - 1])
        value = data.draw(st.one_of(st.integers(0, 2**64 - 1), special))
        changed[place : place + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")
    survives(bytes(changed[: data.draw(st.integers(0, len(changed)))] if data.draw(st.booleans()) else changed),
             folder / "flipped.gguf")  # fmt: skip
