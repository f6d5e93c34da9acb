"""GGUF files that the public package writes are read bit for bit as that package reads them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize

from groundup.checkpoints.gguf import GGUF, open_gguf
from groundup.checkpoints.gguf_header import KINDS
from groundup.checkpoints.source import Source
from groundup.core.errors import GroundupError
from groundup.core.files import sha256

QUANTIZED = [kind.name for kind in KINDS.values() if kind.dtype is None]
WRITTEN = {  # every type of value a file can hold, at its edges
    "a.u8": ("uint8", 255), "a.i8": ("int8", -128), "a.u16": ("uint16", 65535), "a.i16": ("int16", -32768),
    "a.u32": ("uint32", 2**32 - 1), "a.i32": ("int32", -(2**31)), "a.f32": ("float32", 0.5),
    "a.u64": ("uint64", 2**64 - 1), "a.i64": ("int64", -(2**63)),
    "a.f64": ("float64", 0.1), "a.yes": ("bool", True), "a.no": ("bool", False),
    "a.text": ("string", "naïve 🙂"),
    "a.ints": ("array", [3, -1, 7]), "a.words": ("array", ["Ġa", "", "🙂"]), "a.truths": ("array", [True, False]),
    "a.floats": ("array", [0.25, -2.0]),
}  # fmt: skip


def write(path: Path, tensors: dict[str, tuple[np.ndarray, Type | None]], alignment: int | None = None) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    if alignment:
        writer.add_custom_alignment(alignment)
    for key, (kind, value) in WRITTEN.items():
        getattr(writer, f"add_{kind}")(key, value)
    for name, (data, kind) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def blocks(kind: Type, rows: int, count: int, seed: int = 0) -> np.ndarray:
    """Rows of `count` blocks: quantized noise where the package can do it, else random bytes."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    random = np.random.default_rng(seed)
    try:
        return quantize(random.standard_normal((rows, block * count), np.float32), kind)
    except NotImplementedError:
        return random.integers(0, 256, (rows, size * count), np.uint8)


def same_bits(found: torch.Tensor, expected: np.ndarray) -> bool:
    return found.shape == expected.shape and found.contiguous().numpy().tobytes() == expected.tobytes()


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((5, 7), np.float32)


def test_metadata_comes_back_typed(tmp_path: Path, noise: np.ndarray) -> None:
    found: GGUF = open_gguf(write(tmp_path / "a.gguf", {"x": (noise, None)}))
    assert isinstance(found, Source)
    expected: dict[str, Any] = {"general.architecture": "llama"} | {key: value for key, (_, value) in WRITTEN.items()}
    assert found.metadata == expected
    assert {key: type(value) for key, value in found.metadata.items()} == {k: type(v) for k, v in expected.items()}
    assert [type(value) for value in found.metadata["a.truths"]] == [bool, bool]


@pytest.mark.parametrize(("rows", "count"), [(19, 3), (701, 3)])  # the longer one in several strips, the last one short
@pytest.mark.parametrize("name", QUANTIZED)
def test_blocks_are_unpacked_as_the_package_does(tmp_path: Path, name: str, rows: int, count: int) -> None:
    data = blocks(Type[name], rows, count)
    found = open_gguf(write(tmp_path / "q.gguf", {"first": (np.zeros(3, np.float32), None), "q": (data, Type[name])}))
    block = gguf.GGML_QUANT_SIZES[Type[name]][0]
    assert found.shape("q") == (rows, count * block) and found.dtype("q") == name
    with np.errstate(all="ignore"):
        expected = dequantize(data, Type[name])
    tensor = found.read("q")
    assert tensor.dtype == torch.float32 and same_bits(tensor, expected)
    assert np.isfinite(expected).any() and (expected != 0).any()


def test_block_sizes_are_the_published_ones() -> None:
    assert {Type(code).name: (kind.block, kind.size) for code, kind in KINDS.items()} == {
        kind.name: gguf.GGML_QUANT_SIZES[Type[kind.name]] for kind in KINDS.values()
    }


def test_plain_tensors_keep_their_type_and_share_the_file(tmp_path: Path, noise: np.ndarray) -> None:
    bf16 = torch.from_numpy(noise).bfloat16()
    tensors = {
        "single": (noise, None),
        "half": (noise[:3].astype(np.float16), None),
        "brain": (bf16.view(torch.uint8).numpy(), Type.BF16),
        "cube": (np.arange(2 * 3 * 5 * 7, dtype=np.float32).reshape(2, 3, 5, 7), None),
        "vector": (noise[0], None),
    }
    path = write(tmp_path / "p.gguf", tensors)
    found = open_gguf(path)
    assert found.names == list(tensors)
    assert [found.dtype(name) for name in found.names[:3]] == [torch.float32, torch.float16, torch.bfloat16]
    assert same_bits(found.read("single"), noise)
    assert same_bits(found.read("half"), noise[:3].astype(np.float16))
    assert torch.equal(found.read("brain"), bf16)
    assert found.shape("cube") == (2, 3, 5, 7) and same_bits(found.read("cube"), tensors["cube"][0])
    assert found.shape("vector") == (7,)

    before = sha256(path)
    view = found.read("single")
    view.fill_(3.0)  # copy-on-write: the file keeps what it has
    assert sha256(path) == before
    assert same_bits(open_gguf(path).read("single"), noise)


def test_the_fingerprint_is_that_of_the_tensors(tmp_path: Path, noise: np.ndarray) -> None:
    files = {
        "first": write(tmp_path / "a.gguf", {"x": (noise, None), "y": (noise[0], None)}),
        "order and alignment": write(tmp_path / "b.gguf", {"y": (noise[0], None), "x": (noise, None)}, 64),
        "values": write(tmp_path / "c.gguf", {"x": (-noise, None), "y": (noise[0], None)}),
        "names": write(tmp_path / "d.gguf", {"z": (noise, None), "y": (noise[0], None)}),
    }
    found = {name: open_gguf(path).fingerprint() for name, path in files.items()}
    assert found["first"] == found["order and alignment"]
    assert len(set(found.values())) == 3


@pytest.mark.parametrize("alignment", [8, 64, 4096])
def test_other_alignments(tmp_path: Path, noise: np.ndarray, alignment: int) -> None:
    found = open_gguf(write(tmp_path / "a.gguf", {"x": (noise, None), "y": (noise[:2], None)}, alignment))
    assert found.metadata["general.alignment"] == alignment
    assert same_bits(found.read("x"), noise) and same_bits(found.read("y"), noise[:2])


def test_a_tensor_that_is_not_there(tmp_path: Path, noise: np.ndarray) -> None:
    found = open_gguf(write(tmp_path / "a.gguf", {"x": (noise, None)}))
    for ask in (found.read, found.shape, found.dtype):
        with pytest.raises(GroundupError, match=r"no tensor 'y'"):
            ask("y")


def test_a_type_that_is_not_read_is_named(tmp_path: Path) -> None:
    data = np.zeros((2, 136), np.uint8)
    path = write(tmp_path / "i.gguf", {"blk.0.x": (data, Type.IQ4_XS)})
    with pytest.raises(GroundupError, match=r"'blk.0.x' as IQ4_XS, which is not read here.* Q4_K"):
        open_gguf(path)


def test_the_starter_is_what_the_package_reads(starter: Callable[[str], Path]) -> None:
    path = starter("smollm2-135m-instruct")
    found = open_gguf(path)
    reader = gguf.GGUFReader(path)
    assert found.names == [tensor.name for tensor in reader.tensors]
    looked_at = [tensor for tensor in reader.tensors if not re.match(r"blk\.(?!0\.|29\.)", tensor.name)]
    assert {tensor.tensor_type.name for tensor in looked_at} == {"Q4_1", "Q8_0", "F32"}
    for tensor in looked_at:
        assert found.shape(tensor.name) == tuple(reversed(tensor.shape.tolist()))
        expected = dequantize(tensor.data, tensor.tensor_type)
        assert same_bits(found.read(tensor.name), expected.reshape(found.shape(tensor.name))), tensor.name
    assert len(found.metadata["tokenizer.ggml.tokens"]) == 49_152
    for key in ("tokenizer.ggml.merges", "tokenizer.ggml.token_type", "tokenizer.chat_template", "llama.block_count"):
        assert found.metadata[key] == reader.fields[key].contents()
