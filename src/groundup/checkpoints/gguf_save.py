"""A network as a GGUF file, which llama.cpp runs and `load` reads back: blocks as they stand, the config and the tokenizer as metadata.

What a model's own `.gguf` said is said again as far as it still holds (`_metadata`). Tensors are written one by one.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGML_QUANT_VERSION, GGMLQuantizationType, GGUFValueType, GGUFWriter, LlamaFileType
from torch import Tensor, nn

from groundup.checkpoints.load import Origin
from groundup.core.config import FamilyConfig
from groundup.core.errors import GroundupError, UsageError
from groundup.core.files import atomic_file
from groundup.core.rules import Entry
from groundup.inputs.tokenizer import Tokenizer
from groundup.nn.storage import Dense
from groundup.nn.surgery import numbers
from groundup.quantization.blocks import BlockKind, sizes
from groundup.quantization.halves import BF16, FP16, Half, Halved
from groundup.quantization.stored import Stored

FORMATS: dict[str, Half | None] = {"float32": None, "float16": FP16(), "bfloat16": BF16()}
TYPES = {
    torch.float32: GGMLQuantizationType.F32,
    torch.float16: GGMLQuantizationType.F16,
    torch.bfloat16: GGMLQuantizationType.BF16,
}
INTEGERS = {
    GGUFValueType.UINT32: (0, 2**32),
    GGUFValueType.INT32: (-(2**31), 2**31),
    GGUFValueType.UINT64: (0, 2**64),
    GGUFValueType.INT64: (-(2**63), 2**63),
}
COSTS = "groundup.costs"
KEPT = ("general.", "llama.", "qwen2.", "qwen3.", "gpt2.", "tokenizer.", "quantize.")  # what a file may say again


@dataclass(frozen=True)
class Piece:
    """One of our tensors as the file keeps it: its rows are of numbers, or of the bytes of blocks (`shape` counts these)."""

    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    read: Callable[[], Tensor]


@dataclass(frozen=True)
class Part:
    """The tensors of the file that one rule makes of some of ours, in one go."""

    entry: Entry
    pieces: Sequence[Piece]
    shapes: Sequence[tuple[int, ...]]

    @property
    def kind(self) -> GGMLQuantizationType:
        return self.pieces[0].kind

    def made(self) -> list[np.ndarray]:
        """The numbers or bytes of each, in the file's layout; bfloat16 as integers, which numpy has."""
        made = self.entry.inverse([piece.read() for piece in self.pieces])
        plain = [t.detach().cpu().contiguous() for t in made]
        return [(t.view(torch.uint16) if t.dtype == torch.bfloat16 else t).numpy() for t in plain]


def write(
    path: Path,
    network: nn.Module,
    family: ModuleType,
    config: FamilyConfig,
    tokenizer: Tokenizer,
    origin: Origin,
    *,
    dtype: str | None = None,
    costs: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write a new file. Weights in GGUF's blocks are written as they stand, bit for bit, vectors in float32.

    dtype  of the other matrices: float32, float16 or bfloat16; None: as they stand
    costs  what shrinking the weights has cost, kept in the file

    Raises UsageError, before anything is written, for what GGUF or llama.cpp cannot say: the family, a part of the config, the
    tokenizer, or a kind of storage.
    """
    if not hasattr(family, "config_to_gguf"):
        raise UsageError(f"a {config.family()} cannot be written as .gguf: save it as a folder")
    if config.labels is not None:
        raise UsageError("a head for labels cannot be written as .gguf: save the model as a folder")
    if dtype is not None and dtype not in FORMATS:
        raise UsageError(f"a .gguf has matrices in {', '.join(FORMATS)}, not {dtype!r}; groundup quantize makes blocks")
    said, tensors = family.config_to_gguf(config)
    parts = _parts(network, family, config, dtype)
    held = {name: torch.empty(0) for part in parts for name in part.entry.sources} | tensors
    metadata = _metadata(family, config, tokenizer, origin, said, held)
    metadata |= _of_kinds(parts, metadata.get("general.file_type"))
    if costs:
        metadata[COSTS] = json.dumps([dict(cost) for cost in costs])
    with atomic_file(path) as place:
        _write(place, metadata, parts, tensors)


def _write(place: Path, metadata: Mapping[str, Any], parts: Sequence[Part], tensors: Mapping[str, Tensor]) -> None:
    writer = GGUFWriter(place, metadata["general.architecture"])
    try:
        for key, value in metadata.items():
            _say(writer, key, value)
        for part in parts:
            width = part.kind.name  # bytes of blocks are counted in numbers by the writer
            for name, shape in zip(part.entry.sources, part.shapes, strict=True):
                held = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}.get(width, np.uint8)
                writer.add_tensor_info(name, shape, np.dtype(held), prod(shape) * np.dtype(held).itemsize, part.kind)
        for name, tensor in tensors.items():
            writer.add_tensor_info(name, tensor.shape, np.dtype(np.float32), tensor.nbytes)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for part in parts:
            for array in part.made():
                writer.write_tensor_data(array)
        for tensor in tensors.values():
            writer.write_tensor_data(tensor.numpy())
    finally:
        writer.close()


# --- tensors ----------------------------------------------------------------------------------------------------------


def _parts(network: nn.Module, family: ModuleType, config: FamilyConfig, dtype: str | None) -> list[Part]:
    """What is written, in the order of the network."""
    pieces = {name: _piece(name, held, dtype) for name, held in numbers(network).items()}
    plan = family.gguf(config).save(pieces)
    if plan.unused:
        raise UsageError(f"a {config.family()} in a .gguf has no place for {', '.join(plan.unused[:4])}")
    order = {name: place for place, name in enumerate(pieces)}
    parts = []
    for entry in sorted(plan.entries, key=lambda entry: order[entry.targets[0]]):
        mine = [pieces[target] for target in entry.targets]
        if len({piece.kind for piece in mine}) > 1:
            kinds = ", ".join(piece.kind.name for piece in mine)
            raise UsageError(
                f"{', '.join(entry.targets)} are one matrix in a .gguf, and stored as {kinds}: store them alike"
            )
        made = entry.inverse([torch.empty(piece.shape, device="meta") for piece in mine])
        parts.append(Part(entry, mine, [tuple(t.shape) for t in made]))
    return parts


def _piece(name: str, held: Any, dtype: str | None) -> Piece:
    """One of our weights, biases or gains as the file will have it."""
    if isinstance(held, Stored) and isinstance(held.kind, BlockKind):
        block, size = sizes(held.kind.name)
        out, width = held.shape
        if width % block:
            raise UsageError(f"{name} has rows of {width} numbers, and {held.kind.name} in a .gguf blocks of {block}")
        stored = held
        kind = GGMLQuantizationType[stored.kind.name.upper()]
        return Piece(kind, (out, width // block * size), lambda: stored.held["packed"])
    if isinstance(held, Stored) and not isinstance(held, Halved):
        raise UsageError(
            f"{name} is stored as {held.kind.name}, which a .gguf does not have: groundup quantize the model as it was "
            "to q8_0, q4_0, q4_1, bf16 or fp16"
        )
    tensor: Tensor = held.values if isinstance(held, Dense | Halved) else held
    if tensor.ndim < 2:
        return Piece(GGMLQuantizationType.F32, tuple(tensor.shape), lambda: tensor.float())
    found = tensor.dtype if dtype is None else getattr(torch, dtype)
    half = None if dtype is None else FORMATS[dtype]
    if found not in TYPES:
        raise UsageError(
            f"{name} is in {str(found).removeprefix('torch.')}, which a .gguf does not have: give --to float32"
        )
    return Piece(
        TYPES[found], tuple(tensor.shape), lambda: tensor.to(found) if half is None else half.store(tensor).values
    )


# --- metadata ---------------------------------------------------------------------------------------------------------


def _metadata(
    family: ModuleType,
    config: FamilyConfig,
    tokenizer: Tokenizer,
    origin: Origin,
    said: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> dict[str, Any]:
    """What the model's own `.gguf` said, in its order; what no longer holds is said anew.

    A file that somebody else wrote has keys, and spellings of the same, that are not known here: they are kept while the config and
    the tokenizer that the file had are the model's.
    """
    architecture = str(said["general.architecture"])
    name = Path(origin.name).name  # no path of this machine
    found: dict[str, Any] = {"general.architecture": architecture, "general.type": "model", "general.name": name}
    found |= {key: value for key, value in origin.metadata.items() if key.startswith(KEPT)}
    if not _holds(lambda: family.config_from_gguf(found, tensors) == config):
        found = {key: value for key, value in found.items() if not key.startswith(f"{architecture}.")}
        found |= {key: float(np.float32(value)) if isinstance(value, float) else value for key, value in said.items()}
    if not _holds(lambda: _same_tokens(Tokenizer.from_gguf(found), tokenizer)):
        found = {key: value for key, value in found.items() if not key.startswith("tokenizer.")}
        found |= tokenizer.to_gguf(config.to_public()["vocab_size"])
    return found


def _same_tokens(own: Tokenizer, tokenizer: Tokenizer) -> bool:
    return own.fingerprint() == tokenizer.fingerprint() and own.stop_ids == tokenizer.stop_ids


def _holds(ask: Callable[[], bool]) -> bool:
    """Whether metadata say it; where they say nothing of it, they do not."""
    try:
        return ask()
    except (KeyError, AttributeError, GroundupError):  # AttributeError: a family that is read as another one
        return False


def _of_kinds(parts: Sequence[Part], own: Any) -> dict[str, int]:
    """`general.file_type`, the kind that most numbers have, and the version of the blocks where there are any.

    own  the file type that the model's own file had, which may be finer than the kind (Q4_K_S, Q4_K_M)
    """
    counts: Counter[GGMLQuantizationType] = Counter()
    for part in parts:
        block, size = GGML_QUANT_SIZES[part.kind] if part.kind not in TYPES.values() else (1, 1)
        counts[part.kind] += sum(map(prod, part.shapes)) // size * block
    most = max(counts, key=lambda kind: counts[kind]).name
    known = {
        kind.value: kind.name for kind in LlamaFileType if re.fullmatch(f"(ALL|MOSTLY)_{most}(_[SML])?", kind.name)
    }
    plain = next((value for value, name in known.items() if name.endswith(("_M", most))), LlamaFileType.GUESSED.value)
    found = {"general.file_type": own if own in known else plain}
    blocks = any(kind not in TYPES.values() for kind in counts)
    return found | ({"general.quantization_version": GGML_QUANT_VERSION} if blocks else {})


def _say(writer: GGUFWriter, key: str, value: Any) -> None:
    if key == "general.architecture":  # said by the writer itself
        return
    if key == "general.alignment":
        writer.data_alignment = value
    if isinstance(value, list):
        if value:  # an array of nothing has no type
            writer.add_key_value(key, value, GGUFValueType.ARRAY, _type(value, signed=True))
    else:
        writer.add_key_value(key, value, _type([value]))


def _type(values: Sequence[Any], signed: bool = False) -> GGUFValueType:
    """The type that llama.cpp's own files have for such values: uint32 for a count, int32 in arrays, float32."""
    first = values[0]
    if isinstance(first, str):
        return GGUFValueType.STRING
    if isinstance(first, bool):
        return GGUFValueType.BOOL
    if isinstance(first, float):
        return GGUFValueType.FLOAT32 if all(np.float32(value) == value for value in values) else GGUFValueType.FLOAT64
    fits = [kind for kind, (least, end) in INTEGERS.items() if all(least <= value < end for value in values)]
    return GGUFValueType.INT32 if signed and GGUFValueType.INT32 in fits else fits[0]
