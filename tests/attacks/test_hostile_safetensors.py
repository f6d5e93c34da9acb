"""Files that lie: every claim of a safetensors header or index is refused in one line, before memory is taken."""

import io
import json
import os
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors import torch as reference

from groundup.checkpoints.layout import INDEX, SINGLE
from groundup.checkpoints.safetensors import open_safetensors, write_safetensors
from groundup.checkpoints.safetensors_header import MAX_HEADER
from groundup.core.errors import GroundupError

SOUND = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def pack(header: Any, data: bytes = bytes(24), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def refused(path: Path, *said: str) -> str:
    with pytest.raises(GroundupError) as error:
        opened = open_safetensors(path)
        for name in opened.names:
            opened.read(name)
    text = str(error.value)
    assert all(part in text for part in said), text
    assert text.isprintable(), "one line, nothing that a terminal would obey"
    assert len(text) < 600 + 2 * len(str(path))
    return text


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def sound(place: Path) -> bytes:
    """A small sound file, as bytes."""
    path = place / "sound.safetensors"
    values = {
        "wte.weight": torch.arange(15.0).reshape(5, 3),
        "mask": torch.tensor([True, False, True]),
        "half": torch.ones(2, 2, dtype=torch.bfloat16),
        "none": torch.empty(0, 4),
        "one": torch.tensor(7),
    }
    write_safetensors(path, values, {"format": "pt"})
    return path.read_bytes()


# ------------------------------------------------------------------------------------------------------ each lie alone

LIES: dict[str, tuple[Any, str]] = {
    "unknown dtype": ({"a": SOUND | {"dtype": "F33"}}, "'F33'"),
    "dtype no string": ({"a": SOUND | {"dtype": ["F32"]}}, "dtype"),
    "four bits": ({"a": SOUND | {"dtype": "F4", "shape": [48]}}, "'F4'"),
    "shape too large": ({"a": SOUND | {"shape": [2, 4]}}, "takes 32 bytes, but data_offsets give it 24"),
    "shape too small": ({"a": SOUND | {"shape": [2, 2]}}, "takes 16 bytes"),
    "shape negative": ({"a": SOUND | {"shape": [-2, -3]}}, "shape of 'a'"),
    "shape of fractions": ({"a": SOUND | {"shape": [2.0, 3.0]}}, "shape of 'a'"),
    "shape of truths": ({"a": SOUND | {"shape": [True, 6]}}, "shape of 'a'"),
    "shape no list": ({"a": SOUND | {"shape": 6}}, "shape of 'a'"),
    "shape overflows": ({"a": SOUND | {"shape": [2**32, 2**32, 6]}}, "larger than any file"),
    "strides overflow": ({"a": SOUND | {"shape": [0, 2**59, 2**59], "data_offsets": [0, 0]}}, "larger than any file"),
    "axis overflows": ({"a": SOUND | {"shape": [2**64 + 6]}}, "shape of 'a'"),
    "too many axes": ({"a": SOUND | {"shape": [1] * 1000 + [6]}}, "at most 32"),
    "offsets reversed": ({"a": SOUND | {"data_offsets": [24, 0]}}, "data_offsets"),
    "offsets negative": ({"a": SOUND | {"data_offsets": [-24, 0]}}, "data_offsets"),
    "offsets of three": ({"a": SOUND | {"data_offsets": [0, 12, 24]}}, "data_offsets"),
    "offsets past 64 bits": ({"a": SOUND | {"data_offsets": [2**64 - 24, 2**64]}}, "data_offsets"),
    "beyond the end": ({"a": SOUND | {"shape": [7], "data_offsets": [0, 28]}}, "cut off or false"),
    "hole at the start": ({"a": SOUND | {"shape": [5], "data_offsets": [4, 24]}}, "leaves a hole"),
    "bytes at the end": ({"a": SOUND | {"shape": [5], "data_offsets": [0, 20]}}, "4 bytes after its last tensor"),
    "overlap": (
        {"a": SOUND | {"shape": [4], "data_offsets": [0, 16]}, "b": SOUND | {"shape": [4], "data_offsets": [8, 24]}},
        "overlaps",
    ),
    "the same bytes twice": ({"a": SOUND, "b": SOUND}, "overlaps"),
    "empty one inside": ({"a": SOUND, "b": SOUND | {"shape": [0], "data_offsets": [8, 8]}}, "overlaps"),
    "no tensors but data": ({}, "24 bytes after"),
    "a field missing": ({"a": {"dtype": "F32", "shape": [6]}}, "dtype, shape and data_offsets"),
    "a field too many": ({"a": SOUND | {"code": "x"}}, "dtype, shape and data_offsets"),
    "entry no object": ({"a": [1]}, "dtype, shape and data_offsets"),
    "metadata no strings": ({"a": SOUND, "__metadata__": {"x": 1}}, "__metadata__"),
    "metadata no object": ({"a": SOUND, "__metadata__": "x"}, "__metadata__"),
    "key twice": (b'{"a": %s, "a": %s}' % ((json.dumps(SOUND).encode(),) * 2), "'a' stands twice"),
    "field twice": (b'{"a": {"dtype": "F32", "dtype": "F32", "shape": [6], "data_offsets": [0, 24]}}', "stands twice"),
    "not an object": (b"[1]", "does not start with '{'"),
    "space before": (b" " + json.dumps({"a": SOUND}).encode(), "does not start with '{'"),
    "no JSON": (b"{" + b"a" * 20, "not JSON"),
    "two values": (json.dumps({"a": SOUND}).encode() + b"{}", "not JSON"),
    "NaN": (b'{"a": NaN}', "NaN"),
    "no UTF-8": (b'{"\xff": 1}', "not UTF-8"),
    "nested": (b'{"a":' * 100_000, "nested too deep"),
    "terminal codes": ({"\x1b]0;owned\x07": SOUND | {"dtype": "\x1b[31m"}}, "\\x1b[31m"),
    "endless name": ({"a" * 1_000_000: SOUND | {"dtype": "X"}}, "..."),
    "half of a character": (b'{"\\ud800": 1}', "\\ud800"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused_and_named(tmp_path: Path, lie: str) -> None:
    header, said = LIES[lie]
    path = tmp_path / "x.safetensors"
    path.write_bytes(pack(header))
    refused(path, "x.safetensors", said)


def test_without_a_lie_the_same_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(pack({"a": SOUND, "__metadata__": {"x": "1"}}))
    assert open_safetensors(path).read("a").tolist() == [[0.0] * 3] * 2


def test_a_truth_value_is_zero_or_one(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(pack({"a": {"dtype": "BOOL", "shape": [3], "data_offsets": [0, 3]}}, b"\x00\x01\x02"))
    refused(path, "BOOL")


# ------------------------------------------------------------------------------------------- lengths, before memory


@pytest.mark.parametrize("length", [MAX_HEADER + 1, 2**31, 2**63, 2**64 - 1])
def test_a_header_that_is_too_long_takes_no_memory(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write(pack({"a": SOUND}, length=length))
        file.truncate(1 << 33)  # the file itself could hold it: 8 GiB that take no room
    tracemalloc.start()
    try:
        refused(path, f"{length:,}", f"{MAX_HEADER:,}")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_header_longer_than_the_file_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(pack({"a": SOUND}, length=MAX_HEADER))
    tracemalloc.start()
    try:
        refused(path, "cut off", f"{MAX_HEADER:,}")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("item", [b"[],", b'"ab",', b'{"a":1},'])
def test_json_that_swells_in_memory_is_refused_before_parsing(tmp_path: Path, item: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(pack(b'{"a":[' + item * 4_000_001 + b"1]}"))
    tracemalloc.start()
    try:
        refused(path, "commas and brackets")
        assert tracemalloc.get_traced_memory()[1] < 2 * path.stat().st_size
    finally:
        tracemalloc.stop()


def test_too_many_tensors_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groundup.checkpoints.safetensors_header.MAX_TENSORS", 3)
    empty = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    path = tmp_path / "x.safetensors"
    path.write_bytes(pack(dict.fromkeys("abc", empty), b""))
    assert open_safetensors(path).names == ["a", "b", "c"]
    path.write_bytes(pack(dict.fromkeys("abcd", empty), b""))
    refused(path, "4 tensors; at most 3")


# ------------------------------------------------------------------------------------------------ anything whatsoever


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_a_cut_file_is_refused(place: Path, sound: bytes, data: st.DataObject) -> None:
    path = place / "cut.safetensors"
    path.write_bytes(sound[: data.draw(st.integers(0, len(sound) - 1))])
    refused(path, "cut.safetensors")


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_flipped_bytes_are_refused_or_give_a_sound_result(place: Path, sound: bytes, data: st.DataObject) -> None:
    """Whatever we take the library takes too, and finds the same in it: we are never more lenient than it is."""
    path = place / "flipped.safetensors"
    changed = bytearray(sound)
    header = 8 + int.from_bytes(sound[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, header - 1) | st.integers(0, len(sound) - 1))
        changed[at] = data.draw(st.integers(0, 255) | st.sampled_from(b'{}[],:"0129-'))
    path.write_bytes(changed)
    try:
        opened = open_safetensors(path)
        found = {name: opened.read(name) for name in opened.names}
    except GroundupError as error:
        assert str(error).isprintable()
        return
    theirs = reference.load_file(path)
    assert found.keys() == theirs.keys()
    for name, tensor in found.items():
        assert (tensor.dtype, tensor.shape) == (theirs[name].dtype, theirs[name].shape)
        assert tensor.reshape(-1).view(torch.uint8).equal(theirs[name].reshape(-1).view(torch.uint8))


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused(place: Path, given_: bytes) -> None:
    path = place / "any.safetensors"
    path.write_bytes(given_)
    refused(path)


@settings(deadline=None, max_examples=150)
@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "__metadata__"]),
        st.fixed_dictionaries(
            {},
            optional={
                "dtype": st.sampled_from(["U8", "BOOL", "F32", "I64", "X"]),
                "shape": st.lists(st.integers(-1, 9) | st.integers() | st.booleans(), max_size=3),
                "data_offsets": st.lists(st.integers(0, 9) | st.integers(), min_size=1, max_size=3),
            },
        )
        | st.none()
        | st.integers(),
    ),
    st.integers(0, 16),
)
def test_any_claims_are_refused_or_true(place: Path, header: dict[str, Any], size: int) -> None:
    path = place / "claims.safetensors"
    path.write_bytes(pack(header, bytes(size)))
    try:
        opened = open_safetensors(path)
    except GroundupError:
        return
    assert sum(opened.read(name).nbytes for name in opened.names) == size
    try:
        assert set(reference.load_file(path)) == set(opened.names)
    except SafetensorError as error:
        pytest.fail(f"the library refuses what we take: {error}")


# --------------------------------------------------------------------------------------------- not safetensors at all


class Payload:
    """Unpickled, it would make a file."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_renamed_pickle_is_refused_and_never_run(tmp_path: Path, zipped: bool) -> None:
    ran = tmp_path / "ran"
    path = tmp_path / SINGLE
    torch.save({"a": torch.ones(3), "b": Payload(ran)}, path, _use_new_zipfile_serialization=zipped)
    for place in (path, tmp_path):
        refused(place, "pickle or an archive", "run code", ".safetensors")
    assert not ran.exists()


@pytest.mark.parametrize(
    "content",
    [b"\x80\x02}q\x00.", b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00}\x94.", b"PK\x05\x06" + bytes(18)],
    ids=["protocol 2", "protocol 4", "empty zip"],
)
def test_small_pickles_and_archives_are_named_too(tmp_path: Path, content: bytes) -> None:
    (tmp_path / SINGLE).write_bytes(content)
    refused(tmp_path, "pickle or an archive")


def test_an_archive_is_named(tmp_path: Path) -> None:
    page = io.BytesIO()
    with zipfile.ZipFile(page, "w") as archive:
        archive.writestr("data.pkl", b"x" * 1000)
    (tmp_path / SINGLE).write_bytes(page.getvalue())
    refused(tmp_path, "pickle or an archive")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty (0 bytes); download or copy it again"),
        (b"\x01\x02", "cut off after 2 bytes; download or copy it again"),
        (bytes(100), "does not start with '{'; download or copy it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"GGUF" + struct.pack("<I", 3) + bytes(50), "a GGUF file: give it the ending .gguf"),
        ((128).to_bytes(8, "little") + b'{"a"', "cut off: its header has 128 bytes"),
        ((0x0280).to_bytes(8, "little") + b'{"a"', "cut off: its header has 640 bytes"),
    ],
    ids=["empty", "two bytes", "zeros", "LFS pointer", "web page", "GGUF", "length like a pickle", "and its protocol"],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / SINGLE).write_bytes(content)
    refused(tmp_path, said)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "x.ckpt"])
def test_a_folder_with_pickles_only_says_what_to_do(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x02.")
    (tmp_path / "config.json").write_text("{}")
    refused(tmp_path, name, "can run code", "save_pretrained")


def test_other_folders_say_what_is_missing(tmp_path: Path) -> None:
    refused(tmp_path, "no weights", SINGLE, INDEX)
    refused(tmp_path / "gone", "gone", "no such file")
    refused(tmp_path / ("a" * 300), "File name too long")
    write_safetensors(tmp_path / "adapter_model.safetensors", {"a": torch.ones(1)})
    refused(tmp_path, "adapter_model.safetensors", "name the file")


@pytest.mark.timeout(20)
def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / SINGLE)
    refused(tmp_path, "not a file")
    refused(Path("/dev/zero"), "not a file")


# -------------------------------------------------------------------------------------------------------------- shards


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A sound folder of three shards."""
    folder = tmp_path / "model"
    write_safetensors(folder, {f"h.{i}": torch.full((3,), float(i)) for i in range(3)}, max_shard_bytes=12)
    assert open_safetensors(folder).read("h.2").tolist() == [2, 2, 2]
    return folder


def edit(folder: Path, **placed: str | None) -> None:
    index = json.loads((folder / INDEX).read_text())
    for name, file in placed.items():
        index["weight_map"] |= {name.replace("_", "."): file}
    index["weight_map"] = {name: file for name, file in index["weight_map"].items() if file is not None}
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    "file",
    [
        "../outside.safetensors",
        "/outside.safetensors",
        "sub/x.safetensors",
        "..\\outside.safetensors",
        "C:x.safetensors",
        "..",
        "",
        "x\x00.safetensors",
        "x\n.safetensors",
        "pytorch_model.bin",
    ],
)
def test_an_index_names_plain_files_only(shards: Path, file: str) -> None:
    write_safetensors(shards.parent / "outside.safetensors", {"h.1": torch.ones(3)})
    edit(shards, h_1=file)
    refused(shards, "not the plain name")


def test_the_index_is_held_against_the_shards(shards: Path) -> None:
    two = "model-00002-of-00003.safetensors"
    edit(shards, h_9=two)
    refused(shards, two, "lacks 'h.9'")
    edit(shards, h_9=None, h_1=None, h_0=two)
    refused(shards, "model-00002", "lacks 'h.0'")
    edit(shards, h_0="model-00001-of-00003.safetensors", h_1=two)
    open_safetensors(shards)
    write_safetensors(shards / two, {"h.1": torch.ones(3), "h.0": torch.ones(3)})
    refused(shards, two, "holds 'h.0'", "does not place")


def test_a_missing_or_cut_shard_is_named(shards: Path) -> None:
    two = shards / "model-00002-of-00003.safetensors"
    content = two.read_bytes()
    two.write_bytes(content[:-1])
    refused(shards, two.name, "cut off")
    two.unlink()
    refused(shards, two.name, "missing")


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"weight_map": {}}', b'{"weight_map": {"a": 1}}', b'{"weight_map": []}', b"{" * 9]
)
def test_a_broken_index_is_refused(shards: Path, content: bytes) -> None:
    (shards / INDEX).write_bytes(content)
    refused(shards, INDEX)


def test_a_tensor_that_an_index_places_twice_is_refused(shards: Path) -> None:
    text = (shards / INDEX).read_text()
    (shards / INDEX).write_text(text.replace('"h.0":', '"h.1": "model-00001-of-00003.safetensors", "h.0":'))
    refused(shards, "'h.1' stands twice")


def test_an_index_that_swells_in_memory_is_refused_before_parsing(shards: Path) -> None:
    (shards / INDEX).write_bytes(b'{"weight_map":[' + b"[]," * 4_000_001 + b"1]}")
    tracemalloc.start()
    try:
        refused(shards, "commas and brackets")
        assert tracemalloc.get_traced_memory()[1] < 2 * (shards / INDEX).stat().st_size
    finally:
        tracemalloc.stop()


def test_an_index_of_too_many_files_is_refused_before_any_is_opened(shards: Path) -> None:
    (shards / INDEX).write_text(json.dumps({"weight_map": {f"w{i}": f"{i}.safetensors" for i in range(10_001)}}))
    refused(shards, "10,001 files")


# --------------------------------------------------------------------------------------------------------------- links


@pytest.mark.parametrize("name", [SINGLE, INDEX, "model-00002-of-00003.safetensors"])
def test_a_link_out_of_the_folder_is_refused(shards: Path, name: str) -> None:
    outside = shards.parent / "outside"
    if name == SINGLE:
        write_safetensors(shards.parent / "x.safetensors", {"a": torch.ones(1)})
        (shards.parent / "x.safetensors").rename(outside)
    else:
        (shards / name).rename(outside)
    (shards / name).symlink_to(outside)
    refused(shards, name, "link that leads out")


def test_a_folder_whose_name_only_starts_alike_is_outside(shards: Path) -> None:
    evil = shards.with_name("model_evil")
    evil.mkdir()
    shard = shards / "model-00002-of-00003.safetensors"
    shard.rename(evil / "x")
    shard.symlink_to("../model_evil/x")
    refused(shards, "link that leads out")


def test_links_within_the_folder_and_circles(shards: Path) -> None:
    shard = shards / "model-00002-of-00003.safetensors"
    shard.rename(shards / "real")
    shard.symlink_to("real")
    assert open_safetensors(shards).read("h.1").tolist() == [1, 1, 1]
    (shards / "real").unlink()
    (shards / "real").symlink_to(shard.name)
    refused(shards, shard.name)


def hub(root: Path, shards: Path, snapshot: str = "snapshots/abc") -> Path:
    """The folder laid out as Hugging Face's cache does it: a snapshot of links into blobs."""
    model = root / "models--owner--name"
    (model / "blobs").mkdir(parents=True)
    folder = model / snapshot
    folder.mkdir(parents=True)
    up = "/".join([".."] * len(Path(snapshot).parts))
    for i, file in enumerate(sorted(shards.iterdir())):
        file.rename(model / "blobs" / f"{i:064}")
        (folder / file.name).symlink_to(f"{up}/blobs/{i:064}")
    return folder


@pytest.mark.parametrize("snapshot", ["snapshots/abc", "snapshots/abc/part"])
def test_the_cache_of_hugging_face_is_read(tmp_path: Path, shards: Path, snapshot: str) -> None:
    folder = hub(tmp_path / "hub", shards, snapshot)
    opened = open_safetensors(folder)
    assert [opened.read(f"h.{i}")[0].item() for i in range(3)] == [0, 1, 2]
    (tmp_path / "link").symlink_to(folder)  # by way of a link of the user's own, too
    assert open_safetensors(tmp_path / "link").fingerprint() == opened.fingerprint()


def test_in_that_cache_a_link_to_another_model_is_refused(tmp_path: Path, shards: Path) -> None:
    folder = hub(tmp_path / "hub", shards)
    shard = folder / "model-00002-of-00003.safetensors"
    other = tmp_path / "hub" / "models--owner--name2" / "blobs" / "x"
    other.parent.mkdir(parents=True)
    shard.resolve().rename(other)
    shard.unlink()
    shard.symlink_to(other)
    refused(folder, "link that leads out")


def test_blobs_beside_a_folder_that_is_no_snapshot_are_outside(tmp_path: Path, shards: Path) -> None:
    refused(hub(tmp_path / "hub", shards, "mine/abc"), "link that leads out")
