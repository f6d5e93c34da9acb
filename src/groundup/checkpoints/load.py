"""From a name or a path to a network with its numbers in place, and a report that nothing was left over.

name ── resolve ── path ── source (lazy) ── config ── build (no numbers yet) ── rules ── network
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from groundup import models
from groundup.checkpoints import hub, quantized, starters
from groundup.checkpoints.gguf import GGUF, open_gguf
from groundup.checkpoints.safetensors import open_safetensors
from groundup.checkpoints.source import Source
from groundup.core.config import FamilyConfig
from groundup.core.errors import GroundupError, UsageError
from groundup.core.files import read_json
from groundup.core.rules import Entry, Plan, Rules
from groundup.inputs.tokenizer import Tokenizer
from groundup.kernels.library import library
from groundup.nn.heads import end_in_labels
from groundup.nn.linear import Embedding, Holder, Linear
from groundup.nn.stack import Decoder, EncoderDecoder, Stack
from groundup.nn.storage import Dense
from groundup.nn.surgery import missing, numbers, tensors
from groundup.quantization.blocks import BlockKind
from groundup.quantization.kinds import KINDS
from groundup.quantization.packed import Packed, packable
from groundup.quantization.shrink import holders
from groundup.quantization.stored import Stored

GGUF_FAMILIES = ("llama", "qwen2", "qwen3", "gpt2")  # general.architecture and the family's name
BLOCKS: dict[str, type[BlockKind]] = {name: kind for name, kind in KINDS.items() if issubclass(kind, BlockKind)}


@dataclass(frozen=True)
class Origin:
    """Where a model came from: the name that was asked for, the files, and the hash of what they hold.

    identity  that hash, or what computes it when it is first asked for
    metadata  what a `.gguf` said beside its tensors
    """

    name: str
    path: Path
    identity: str | Callable[[], str]
    format: str
    family: str
    metadata: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def fingerprint(self) -> str:
        return self.identity if isinstance(self.identity, str) else self.identity()


@dataclass(frozen=True)
class Loaded:
    """A network and all that came with it. `notes` says what was ignored, tied or left out, by name."""

    network: Decoder | EncoderDecoder
    family: ModuleType
    config: FamilyConfig
    tokenizer: Tokenizer | None
    generation: dict[str, Any]
    origin: Origin
    notes: list[str] = field(default_factory=list)


def whole(folder: Path) -> Path:
    """Where the model lies in the folder of a run that trained all of one; any other path as it is."""
    trained = (folder / "run.json").exists() and (folder / "best" / "config.json").exists()
    return folder / "best" if trained else folder


def resolve(name: str | Path, revision: str | None = None, *, weights: bool = True) -> Path:
    """The file or folder behind a path, a run's folder, a starter's name or a hub id.

    weights  False: of a hub id all but its weights is enough
    """
    path = Path(name).expanduser()
    if path.exists():
        if revision is not None:
            raise UsageError(f"{path} is on this disk; --revision is for models of the hub")
        return whole(path)
    if str(name) in starters.STARTERS:
        if starters.STARTERS[str(name)].kind != "model":
            raise UsageError(f"{name} is a data set, not a model")
        return starters.fetch(str(name))
    if str(name).count("/") == 1 and not str(name).startswith((".", "/", "~")):
        return hub.fetch(str(name), revision, weights=weights)
    known = ", ".join(n for n, s in starters.STARTERS.items() if s.kind == "model")
    raise UsageError(f"{name}: no such file or folder, and no starter; starters: {known}; hub ids are owner/name")


def load(
    name: str | Path,
    *,
    revision: str | None = None,
    dtype: torch.dtype | None = torch.float32,
    keep: Collection[str] = (),
    pack: bool = False,
) -> Loaded:
    """Load a `.gguf` file or a Hugging Face folder.

    dtype: the number format of every weight; None keeps what the file has.
    keep: the kinds of blocks (`BLOCKS`) that matrices of a `.gguf` stay in; pack: these are packed for the compiled library.
    Raises UsageError for a config that is not supported, GroundupError for files that do not fit their config.
    """
    path = resolve(name, revision)
    return _folder(str(name), path, dtype) if path.is_dir() else _gguf(str(name), path, dtype, keep, pack)


def _gguf(name: str, path: Path, dtype: torch.dtype | None, keep: Collection[str], pack: bool) -> Loaded:
    source = opened(path)
    family, config = gguf_config(source, path)
    metadata = dict(source.metadata)
    network, notes = assemble(
        family, config, family.gguf(config), source, dtype, path.name, _blocks(source, keep), pack
    )
    config = _as_built(config, network, family.gguf(config))
    origin = Origin(name, path, source.fingerprint, "gguf", config.model_type, metadata)
    return Loaded(network, family, config, Tokenizer.from_gguf(metadata), {}, origin, notes)


def opened(path: Path) -> GGUF:
    if path.suffix != ".gguf":
        raise UsageError(f"{path}: not a model; give a .gguf file or a folder with config.json and model.safetensors")
    return open_gguf(path)


def gguf_config(source: GGUF, path: Path) -> tuple[ModuleType, FamilyConfig]:
    """The family and the config that a `.gguf` file's header names."""
    metadata = dict(source.metadata)
    architecture = metadata.get("general.architecture")
    if architecture not in GGUF_FAMILIES:
        known = ", ".join(GGUF_FAMILIES)
        raise UsageError(f"{path.name}: a .gguf of architecture {architecture!r} cannot be read; supported: {known}")
    family = getattr(models, architecture)
    try:
        return family, family.config_from_gguf(metadata, source.tensors)
    except KeyError as e:
        raise GroundupError(f"{path.name}: the key {e.args[0]} is missing from its metadata") from None


def _folder(name: str, path: Path, dtype: torch.dtype | None) -> Loaded:
    family, config, public = folder_config(path)
    small = public.get(quantized.KEY)
    source = open_safetensors(path)
    if small is None:
        network, notes = assemble(family, config, family.hugging_face(config), source, dtype, path.name)
        config = _as_built(config, network, family.hugging_face(config))
    else:
        network, notes = _stored(family, config, small, source, dtype, path.name)
    generation = generation_of(path)
    base = small.get("base") if small else None
    known = str(base["fingerprint"]) if isinstance(base, dict) and "fingerprint" in base else None
    origin = Origin(
        name, path, source.fingerprint if known is None else known, "safetensors", str(public["model_type"])
    )
    return Loaded(network, family, config, tokenizer_in(path, generation, public), generation, origin, notes)


def folder_config(path: Path) -> tuple[ModuleType, FamilyConfig, dict[str, Any]]:
    """The family, the config, and the config.json of a folder."""
    if not (path / "config.json").exists():
        raise UsageError(f"{path}: no config.json in it, so this is not a model's folder")
    public = read_json(path / "config.json")
    kind = public.get("model_type") if isinstance(public, dict) else None
    if kind not in models.FAMILIES:
        raise UsageError(f"{path.name}: model_type {kind!r} is not supported; supported: {', '.join(models.FAMILIES)}")
    family = getattr(models, kind)
    known = {key: value for key, value in public.items() if key != quantized.KEY}
    return family, family.Config.from_public(known), public


def generation_of(path: Path) -> dict[str, Any]:
    return read_json(path / "generation_config.json") if (path / "generation_config.json").exists() else {}


def tokenizer_of(name: str | Path, revision: str | None = None) -> Tokenizer:
    """A model's tokenizer and nothing else of it. UsageError where it has none."""
    path = resolve(name, revision)
    if path.is_file():
        return Tokenizer.from_gguf(dict(open_gguf(path).metadata))
    settings = [read_json(path / f) for f in ("generation_config.json", "config.json") if (path / f).exists()]
    found = tokenizer_in(path, *settings)
    if found is None:
        raise UsageError(f"{name} has no tokenizer, so there are no tokens to count or show")
    return found


def tokenizer_in(path: Path, *settings: dict[str, Any]) -> Tokenizer | None:
    if not any((path / f).exists() for f in ("tokenizer.json", "vocab.txt", "vocab.json")):
        return None
    stops: list[int] = []
    for each in settings:
        found = each.get("eos_token_id")
        stops += found if isinstance(found, list) else [found] if isinstance(found, int) else []
    return Tokenizer.from_folder(path, stop_ids=stops)


def kinds(name: str | Path, revision: str | None = None) -> set[str]:
    """In which kinds of storage a model's file has its matrices, by the names of `quantization.kinds`; nothing is loaded."""
    path = resolve(name, revision)
    if path.suffix == ".gguf":
        return {kind.name for kind in _blocks(open_gguf(path), BLOCKS).values()}
    public = read_json(path / "config.json") if (path / "config.json").exists() else {}
    said = public.get(quantized.KEY) if isinstance(public, dict) else None
    lines = said.get("weights") if isinstance(said, dict) and said.get("quant_method") == quantized.METHOD else None
    return {str(line).partition(":")[0] for line in lines.values()} if isinstance(lines, dict) else set()


def _blocks(source: GGUF, keep: Collection[str]) -> dict[str, BlockKind]:
    """The matrices of a file that are in blocks of one of these kinds."""
    held = {name: str(source.dtype(name)).lower() for name in source.names if len(source.shape(name)) == 2}
    return {name: BLOCKS[kind]() for name, kind in held.items() if kind in BLOCKS and kind in keep}


def assemble(
    family: ModuleType,
    config: FamilyConfig,
    rules: Rules,
    source: Source,
    dtype: torch.dtype | None,
    file: str,
    kept: Mapping[str, BlockKind] = MappingProxyType({}),
    pack: bool = False,
) -> tuple[Decoder | EncoderDecoder, list[str]]:
    """Build the network and fill it from `source`; raises GroundupError when anything is left over on either side.

    kept  which tensors stay in the file's blocks; pack: for the compiled library
    """
    network = empty_network(family, config)
    plan = rules.load(source.names)
    if plan.unused:
        raise GroundupError(
            f"{file}: {len(plan.unused)} tensors have no place in a {config.family()}: {_some(plan.unused)}"
        )
    notes = [f"{len(plan.ignored)} tensors ignored: {_some(plan.ignored)}"] if plan.ignored else []
    filled: set[str] = set()
    found, native = holders(network), library() if pack else None
    for entry in plan.entries:
        kind = _kind_of(entry, kept)
        read = source.blocks if kind is not None and isinstance(source, GGUF) else source.read
        given = [read(s) for s in entry.sources]
        try:
            made = entry.forward(given)  # rules move rows, and a row of blocks is a row
        except UsageError as e:
            raise GroundupError(f"{file} does not fit its config: {e}") from None
        for target, tensor in zip(entry.targets, made, strict=True):
            if kind is not None:
                shape = (len(tensor), source.shape(entry.sources[0])[1])
                blocks = kind.read({"packed": tensor.contiguous()}, shape)
                # packed at once, so that no more than one matrix is there in two forms
                storage = Packed(blocks, native) if native is not None and packable(blocks) else blocks
                notes += _put_stored(found, target, storage, file)
            else:
                notes += _put(network, target, tensor if dtype is None else tensor.to(dtype), entry.sources[0], file)
            filled.add(target)
    for entry in plan.copies:
        _same(network, entry, [source.read(s) for s in entry.sources], dtype, file)
    tie(network, plan, config)
    notes += _without(network, family, config, filled)
    empty = missing(network)
    if empty:
        raise GroundupError(f"{file}: {len(empty)} tensors of the model are missing from the file: {_some(empty)}")
    return network.eval(), notes


def _kind_of(entry: Entry, kept: Mapping[str, BlockKind]) -> BlockKind | None:
    """The kind of blocks that all tensors of an entry have, None where it takes ordinary numbers."""
    kinds = [kept.get(name) for name in entry.sources]
    moved = all(operation.name != "transpose" for operation in entry.rule.operations)
    return kinds[0] if moved and all(kind == kinds[0] for kind in kinds) else None


def empty_network(family: ModuleType, config: FamilyConfig) -> Decoder | EncoderDecoder:
    """The network of a config, with no numbers in it."""
    with torch.device("meta"):
        network: Decoder | EncoderDecoder = family.build(config)
        if config.labels is not None:
            end_in_labels(labelled(network, config), config.labels, family.LABELS[config.labels.level])
    return network


def _without(network: nn.Module, family: ModuleType, config: FamilyConfig, filled: Iterable[str]) -> list[str]:
    """Leave out what a file need not hold and does not, such as a pooler; a line for each."""
    notes = []
    for part in getattr(family, "OPTIONAL", ()):
        held = getattr(network, part, None)
        if held is not None and config.labels is None and not any(t.startswith(part + ".") for t in filled):
            setattr(network, part, None)
            notes.append(f"the file has no {part}")
    return notes


def _stored(
    family: ModuleType, config: FamilyConfig, said: Any, source: Source, dtype: torch.dtype | None, file: str
) -> tuple[Decoder | EncoderDecoder, list[str]]:
    """The network of a folder whose weights are stored in few bits."""
    method = said.get("quant_method") if isinstance(said, dict) else None
    if method != quantized.METHOD:
        raise UsageError(
            f"{file}: its weights were quantized by {method!r}, which is not read here; take the model as it was before, "
            "and groundup quantize it"
        )
    network = empty_network(family, config)
    notes = _without(network, family, config, source.names)
    notes += quantized.fill(network, said, source, family.hugging_face(config), file)
    if dtype is not None:
        for parameter in network.parameters():  # codes and scales are buffers, and stay
            parameter.data = parameter.data.to(dtype)
        for part in network.modules():
            if isinstance(part, Stack) and not isinstance(part.embed.tokens.weight, Dense):
                part.format = dtype
    return network.eval(), notes


def labelled(network: Decoder | EncoderDecoder, config: FamilyConfig) -> Decoder:
    """The network, where its family has heads for labels. UsageError where it has none."""
    if not isinstance(network, Decoder):
        raise UsageError(f"a head for labels on a {config.family()} is not supported: take an encoder or a decoder")
    return network


def _put(network: nn.Module, target: str, tensor: Tensor, source: str, file: str) -> list[str]:
    path, _, last = target.rpartition(".")
    try:
        holder = network.get_submodule(path)
    except AttributeError:
        holder = None
    wanted = getattr(holder, last, None)
    if wanted is None:
        raise GroundupError(f"{file}: {source} is there, but the config makes a model without {target}")
    shape = tuple(wanted.shape)
    if tuple(tensor.shape) != shape:
        raise GroundupError(
            f"{file}: {source} gives {target} the shape {tuple(tensor.shape)}; the config wants {shape}"
        )
    if not math.isfinite(float(tensor.sum())) and not bool(torch.isfinite(tensor).all()):
        raise GroundupError(f"{file}: {source} holds numbers that are not finite")
    if isinstance(holder, Linear | Embedding) and last == "weight":
        if isinstance(wanted, Dense) and not wanted.values.is_meta:  # tied, and filled already by its twin
            if torch.equal(wanted.values, tensor):
                return []
            holder.weight = Dense(tensor.contiguous())
            return [f"{target} differs from the weight that the config ties it to: untied"]
        wanted.values = nn.Parameter(tensor.contiguous(), requires_grad=False)  # a transposed one is laid out anew
    else:
        setattr(holder, last, nn.Parameter(tensor, requires_grad=False))
    return []


def _put_stored(found: Mapping[str, Holder], target: str, storage: Stored, file: str) -> list[str]:
    """A matrix in blocks, wherever the one without numbers stands (a tied head has the same)."""
    path = target.removesuffix(".weight")
    if path not in found:
        raise GroundupError(f"{file}: there is a {target}, which the config's model has no matrix for")
    empty = found[path].weight
    if storage.shape != empty.shape:
        raise GroundupError(f"{file}: {target} has the shape {storage.shape}; the config wants {empty.shape}")
    untied = isinstance(empty, Stored)  # filled already by its twin
    if isinstance(empty, Stored) and all(torch.equal(t, empty.held[name]) for name, t in storage.held.items()):
        return []
    for holder in [found[path]] if untied else [h for h in found.values() if h.weight is empty]:
        holder.weight = storage
    return [f"{target} has blocks of its own: untied"] if untied else []


def _same(network: nn.Module, entry: Entry, given: list[Tensor], dtype: torch.dtype | None, file: str) -> None:
    """A second copy of something in the file must hold the same numbers."""
    held = tensors(network)
    for target, tensor in zip(entry.targets, entry.forward(given), strict=True):
        first = held.get(target)
        if first is not None and not torch.equal(first, tensor if dtype is None else tensor.to(dtype)):
            raise GroundupError(
                f"{file}: {entry.sources[0]} differs from another tensor for {target}; which one holds?"
            )


def tie(network: nn.Module, plan: Plan, config: FamilyConfig) -> None:
    """A head that the file leaves out is the embedding, unless the config says that it is not."""
    if not getattr(config, "tie_word_embeddings", True):
        return
    for target, source in plan.ties.items():
        try:
            holder = network.get_submodule(target.rpartition(".")[0])
            other = network.get_submodule(source.rpartition(".")[0])
        except AttributeError:
            continue
        if isinstance(holder, Linear | Embedding) and isinstance(holder.weight, Dense) and holder.weight.values.is_meta:
            assert isinstance(other, Linear | Embedding)
            holder.weight = other.weight


def _as_built(config: Any, network: nn.Module, rules: Rules) -> Any:
    """The config; it says untied where the file gave a head that it ties numbers of its own."""
    if not getattr(config, "tie_word_embeddings", False):
        return config
    held = numbers(network)  # a tied weight once, under its first name
    untied = any(rule.tied_to is not None and rule.target in held for rule in rules.table)
    return config.model_copy(update={"tie_word_embeddings": False}) if untied else config


def _some(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
