"""Adapters in PEFT's layout, both ways, and what we write beside it: the base's name and a probe.

    adapter_config.json          PEFT's settings (of a method that PEFT does not have, ours in the same form)
    adapter_model.safetensors    the tensors under the public modules' names
    groundup.json                ours: the base (name, hash, tokenizer) and logits with and without the adapter

What a method's settings and tensors are is written in its own file in `peft/`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from groundup.checkpoints.safetensors import open_safetensors, write_safetensors
from groundup.core.errors import GroundupError, UsageError
from groundup.core.files import read_json, write_json
from groundup.core.labels import TASKS, Labels
from groundup.core.rules import Rules
from groundup.nn.linear import Linear
from groundup.nn.storage import Dense
from groundup.peft.method import FRONT_PREFIX, Method
from groundup.peft.methods import PEFT_TYPES


@dataclass(frozen=True)
class Probe:
    """A few fixed ids, and what the model says at their end with and without the adapter (at some words)."""

    ids: list[int]
    words: list[int]
    without: list[float]
    with_it: list[float]

    @property
    def effect(self) -> list[float]:
        """What the adapter adds to each word's logit."""
        return [b - a for a, b in zip(self.without, self.with_it, strict=True)]

    def off(self, other: Probe) -> float:
        """How far the other's effect is from this one's as a share of its size (2-norms), beyond what noise explains.

        The yardstick is the base: what it says without the adapter differs by the number formats alone, and by the same
        share of what is said with it.
        """
        size = math.hypot(*self.effect) or 1.0
        louder = max(1.0, math.hypot(*self.with_it) / (math.hypot(*self.without) or 1.0))
        noise = louder * math.dist(self.without, other.without)
        return max(0.0, math.dist(self.effect, other.effect) - 3 * noise) / size


def write(
    folder: Path,
    network: nn.Module,
    method: Method,
    name: str,
    rules: Rules,
    *,
    base: Mapping[str, Any],
    probe: Probe | None,
    settings: Mapping[str, Any],
    heads: Mapping[str, Tensor] | None = None,
    labels: Labels | None = None,
    transposed: bool = False,
) -> None:
    """Write the adapter `name` into an existing empty folder.

    base: what groundup.json says of the base. settings: what PEFT wants to know of it (`task_type`). heads: trained
    beside the adapter, whole, by our names (PEFT's `modules_to_save`). transposed: its public file keeps linears as
    [in, out].
    """
    config, tensors = method.written(network, name, rules)
    heads = heads or {}
    for entry in rules.save(heads).entries:
        (source,) = entry.sources
        (tensors[method.head_prefix + source],) = entry.inverse([heads[t] for t in entry.targets])
        config["modules_to_save"] = sorted({*(config.get("modules_to_save") or []), _top(source, rules)})
    public = {
        "peft_type": method.peft_type,
        "base_model_name_or_path": base.get("name"),
        "revision": None,
        "inference_mode": True,
        **settings,
    }
    if "fan_in_fan_out" in config:  # what methods on linears say of the public file's layout
        config["fan_in_fan_out"] = transposed
    write_json(folder / "adapter_config.json", public | config)
    held = {n: t.detach().float().contiguous() for n, t in tensors.items()}
    write_safetensors(folder / "adapter_model.safetensors", held, {"format": "pt"})
    ours: dict[str, Any] = {"format": 1, "base": dict(base)}
    if labels is not None:
        ours["labels"] = asdict(labels)
    if probe is not None:
        ours["probe"] = vars(probe)
    write_json(folder / "groundup.json", ours)


def read(folder: Path, network: nn.Module, name: str, rules: Rules) -> Method:
    """Put the adapter of a folder on this network (a copy of the caller's) under `name`; gives its settings.

    Raises UsageError for settings that are not supported, GroundupError for tensors that find no place.
    """
    if not (folder / "adapter_config.json").exists():
        raise UsageError(f"{folder}: no adapter_config.json in it, so this is not an adapter's folder")
    config = read_json(folder / "adapter_config.json")
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind not in PEFT_TYPES:
        raise UsageError(
            f"{folder.name}: an adapter of kind {kind!r} cannot be read; supported: {', '.join(PEFT_TYPES)}"
        )
    source = open_safetensors(folder / "adapter_model.safetensors")
    tensors = {n: source.read(n).float() for n in source.names}
    for n, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise GroundupError(f"{folder.name}: {n} holds numbers that are not finite")
    if not tensors:
        raise GroundupError(f"{folder.name}: the file holds no adapter")
    config = _heads(dict(config), tensors, network, rules)
    try:
        return PEFT_TYPES[kind].read(config, tensors, network, name, rules)
    except UsageError as e:
        raise UsageError(f"{folder.name}: {e}") from None
    except GroundupError as e:
        raise GroundupError(f"{folder.name}: {e}") from None


# --- heads that were trained beside an adapter ------------------------------------------------------------------------


def labels_of(folder: Path) -> Labels | None:
    """The labels of the head that lies beside the adapter in a folder; None where none does."""
    path = folder / "adapter_config.json"
    config = read_json(path) if path.exists() else {}
    level = next(
        (level for level, task in TASKS.items() if isinstance(config, dict) and config.get("task_type") == task), None
    )
    if level is None:
        return None
    kept = read_json(folder / "groundup.json").get("labels") if (folder / "groundup.json").exists() else None
    if kept is not None:
        try:
            return Labels(**{**kept, "names": tuple(kept["names"])})
        except (TypeError, KeyError):
            raise GroundupError(
                f"{folder}: the labels in groundup.json cannot be read; save the adapter again"
            ) from None
    source = open_safetensors(folder / "adapter_model.safetensors")
    ends = ("score.weight", "classifier.weight", "classifier.out_proj.weight")
    found = [n for n in source.names if n.startswith(FRONT_PREFIX) and n.endswith(ends) and "pre_classifier" not in n]
    if len(found) != 1:
        raise GroundupError(f"{folder.name}: an adapter for {config['task_type']} without a head: train it with one")
    count = source.shape(found[0])[0]
    names = tuple(f"LABEL_{i}" for i in range(count))
    return Labels(names, "regression" if count == 1 and level == "sequence" else "single", level)


def _top(source: str, rules: Rules) -> str:
    """The module of the whole that holds a public tensor: `bert.pooler.dense.weight` -> `pooler`."""
    return source.removeprefix(rules.prefix).split(".")[0]


def _heads(config: dict[str, Any], tensors: dict[str, Tensor], network: nn.Module, rules: Rules) -> dict[str, Any]:
    """Put the heads among these tensors on the network; gives the settings without them, and takes them off `tensors`."""
    prefix = PEFT_TYPES[config["peft_type"]].head_prefix
    names = {n.removeprefix(prefix): n for n in tensors if n.startswith(prefix)}
    for entry in rules.load(names).entries:
        if not entry.targets[0].startswith(("labels.", "pooler.")):
            continue
        (target,) = entry.targets
        (tensor,) = entry.forward([tensors.pop(names[s]) for s in entry.sources])
        path, _, last = target.rpartition(".")
        holder = network.get_submodule(path)
        wanted = getattr(holder, last, None)
        if not isinstance(holder, Linear) or wanted is None or tuple(wanted.shape) != tuple(tensor.shape):
            raise GroundupError(
                f"{entry.sources[0]} {list(tensor.shape)} has no place in this model: another base's head"
            )
        parameter = nn.Parameter(tensor.clone(), requires_grad=False)
        setattr(holder, last, Dense(parameter) if last == "weight" else parameter)
    # PEFT names `classifier` and `score` whichever of them a model has
    left = [m for m in config.get("modules_to_save") or [] if any(m in n.split(".") for n in tensors)]
    return config | {"modules_to_save": left or None} if "modules_to_save" in config else config
