"""What is put on a model: adapters, read, checked, summed and folded into its weights; and a fresh head for labels.

None of these changes the model that it is given: what they do not touch is shared with it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from groundup.checkpoints import adapters
from groundup.checkpoints.load import labelled
from groundup.core.errors import GroundupError, UsageError
from groundup.core.files import read_json
from groundup.core.labels import Labels
from groundup.folders import probe
from groundup.model import Model
from groundup.nn.heads import end_in_labels, fill
from groundup.nn.step import stacked
from groundup.nn.surgery import shared
from groundup.peft.method import Method, folded

DEFAULT_ADAPTER = "mine"
TOLERANCE = 1e-3  # of the probe's effect, beyond the noise of the number format


def adapt(
    model: Model, method: Method, *, name: str = DEFAULT_ADAPTER, seed: int = 0, start: str | Path | None = None
) -> Model:
    """The model with a fresh adapter on it, in use; every weight of the base is shared with the one that was given.

    start  of a prompt: a folder with another one, whose vectors it begins with, repeated or cut to its length (the soft
           prompt transfer of SPoT, Vu et al., arXiv 2110.07904)

    Raises UsageError when the method has no place in this model, with the reason.
    """
    _refuse_name(model, name)
    encode = None if model.tokenizer is None else model.encode
    network = method.add(model.network, name, seed=seed, encode=encode)
    if start is not None:
        source = add_adapter(model, start, name=f"{name}-start")
        if type(source.method) is not type(method):
            raise UsageError(f"{start}: an adapter of kind {source.method.kind}; a {method.kind} cannot start from it")
        held = source.method.trained(source.network, f"{name}-start")
        method.begin_as(network, name, {path: p.detach() for path, p in held.items()})
    return replace(model, network=network, adapter=name, methods={**model.methods, name: method})


def _refuse_name(model: Model, name: str) -> None:
    """UsageError for a name that a new adapter cannot have."""
    if name in model.methods:
        raise UsageError(f"this model has an adapter {name!r} already: give the new one another name, or merge first")
    if not re.fullmatch(r"[\w -]+", name):
        raise UsageError(f"adapter {name!r}: a name has letters, digits, - and _ alone")


def add_adapter(model: Model, folder: str | Path, *, name: str | None = None) -> Model:
    """The model with an adapter from a folder on it, in use: a run's folder (its best) or one in PEFT's layout.

    Checked before it is given back: that it was made for this base, and that it changes what it changed when it was
    saved. Raises GroundupError when either is not so.
    """
    folder = Path(folder).expanduser()
    if (folder / "run.json").exists():
        folder = folder / "best"
    if (folder / "model.safetensors").exists():
        raise UsageError(f"{folder}: this run trained the whole model; load it as the model itself, without a base")
    name = name or DEFAULT_ADAPTER
    _refuse_name(model, name)
    labels = adapters.labels_of(folder)
    if labels is not None and model.methods:
        raise UsageError(f"{folder}: it has a head for labels of its own, so it comes first, and once")
    if labels is not None and labels != model.config.labels:
        model = with_labels(model, labels)
    network = shared(model.network)
    method = adapters.read(folder, network, name, model.family.hugging_face(model.config))
    network.to(model.device)
    tuned = replace(model, network=network.eval(), adapter=name, methods={**model.methods, name: method})
    note = _checked(tuned, folder, name)
    return replace(tuned, notes=[*model.notes, note])


def _checked(model: Model, folder: Path, name: str) -> str:
    """That the adapter is for this base and takes effect; says so in a line."""
    now = probe(model, name)
    if not any(now.effect):
        raise GroundupError(f"{folder}: this adapter changes nothing; was it trained?")
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
    if ours.get("probe") is None:
        return f"adapter {folder}: base as named; no probe beside it"
    try:
        then = adapters.Probe(**ours["probe"])
    except TypeError:
        raise GroundupError(f"{folder}: the probe in groundup.json cannot be read; save the adapter again") from None
    off, size = then.off(now), max(map(abs, then.effect))
    if off > TOLERANCE:
        raise GroundupError(
            f"{folder}: the adapter does not do here what it did when it was saved: its effect on the probe is off by "
            f"{off:.1%} of {size:.3g}"
        )
    return f"adapter {folder}: base as named, takes effect (moves the probe by up to {size:.3g}, as when saved)"


def combine(model: Model, weights: Mapping[str, float], *, name: str = "combined", rank: int | None = None) -> Model:
    """The model with a new adapter `name` in use: the weighted sum of some of its adapters, which are of one kind.

    weights  {"news": 0.7, "quotes": 0.3}: of LoRA the products are summed, of IA³ the factors, of prompts the vectors
    rank     of LoRA: the nearest product of this rank. Left out, the sum is exact, at the sum of the ranks

    Raises UsageError for adapters of several kinds, and for a kind that has no such sum.
    """
    _refuse_name(model, name)
    for each in weights:
        model.using(each)
    kinds = {type(model.methods[each]) for each in weights}
    if len(weights) < 2 or len(kinds) > 1:
        found = ", ".join(f"{each} ({model.methods[each].kind})" for each in weights) or "none"
        raise UsageError(f"combine: give two or more adapters of one kind, not {found}")
    if not all(map(math.isfinite, weights.values())) or not any(weights.values()) or (rank is not None and rank < 1):
        raise UsageError(f"combine: weights {dict(weights)} and rank {rank} make no sense")
    network = shared(model.network)
    method = kinds.pop().combined(network, weights, name, rank=rank)
    return replace(model, network=network, adapter=name, methods={**model.methods, name: method})


def merge(model: Model) -> Model:
    """The model with the adapter in use added to its weights, and no adapter left.

    The notes say how far the logits moved by it (rounding alone, about 1e-6 of their size in float32).
    """
    if model.adapter is None:
        raise UsageError("merge: no adapter is in use; load one with adapter=, or adapt first")
    names = stacked(model.adapter)
    if len(names) > 1:
        network = folded(model.network, {name: model.methods[name] for name in names})
    else:
        network = model.method.merged(model.network, model.adapter)
    merged = replace(model, network=network, adapter=None, methods={})
    before, after = probe(model, model.adapter), probe(merged, model.adapter)
    moved = max(abs(a - b) for a, b in zip(before.with_it, after.without, strict=True))
    note = f"merged {model.adapter}: logits moved by at most {moved:.2g} on the probe"
    return replace(merged, notes=[*model.notes, note])


def with_labels(model: Model, labels: Labels, *, seed: int = 0, words: bool = False) -> Model:
    """The model with a fresh head for these labels at its end; every other weight is shared with the one that was given.

    words  keep the head that scores words, to learn from both
    Raises UsageError for a family that has no such heads.
    """
    network = shared(labelled(model.network, model.config))
    config = model.config.with_labels(labels)
    rules = getattr(model.family, "LABELS", None)
    if rules is None:
        raise UsageError(f"a head for labels on a {config.family()} is not supported")
    end_in_labels(network, labels, rules[labels.level], words=words)
    with torch.device("meta"):
        pooler = model.family.build(config).pooler
    if labels.level == "sequence" and network.pooler is None and pooler is not None:
        network.pooler = pooler.to_empty(device="cpu")
        fill(network.pooler, torch.Generator().manual_seed(seed + 1))
    assert network.labels is not None
    fill(network.labels, torch.Generator().manual_seed(seed))
    return replace(model, network=network.to(model.device), config=config)
