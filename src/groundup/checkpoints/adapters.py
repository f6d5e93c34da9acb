"""Adapters in PEFT's layout, both ways, and what we write beside it: the base's name and a probe.

    adapter_config.json          PEFT's settings
    adapter_model.safetensors    base_model.model.<public module>.lora_A.weight  [rank, in]
                                 base_model.model.<public module>.lora_B.weight  [out, rank]
    groundup.json                ours: the base (name, hash, tokenizer) and logits with and without the adapter

A linear that is fused in the public file has one A for several of ours. Read from PEFT, that A stays one parameter and
goes out at its rank; trained apart here, the A's stand one below the other and B is block-diagonal, at the sum of
the ranks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from groundup.checkpoints.safetensors import open_safetensors, write_safetensors
from groundup.core.errors import GroundupError, UsageError
from groundup.core.files import read_json, write_json
from groundup.core.rules import Entry, Rules
from groundup.peft.lora import LowRank, pairs, put_pair
from groundup.peft.surgery import linears, weight_of

PREFIX = "base_model.model."
MOST_RANK = 4096

# Settings of PEFT's LoRA that are read, and those that must have one of these values since they change the mathematics.
READ = {
    "peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules", "rank_pattern", "alpha_pattern",
    "base_model_name_or_path", "revision", "task_type", "inference_mode", "fan_in_fan_out", "init_lora_weights",
    "auto_mapping", "peft_version", "layers_to_transform", "layers_pattern", "exclude_modules", "megatron_core",
    "loftq_config", "eva_config", "corda_config", "runtime_config", "ensure_weight_tying", "qalora_group_size",
}  # fmt: skip
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "use_dora": (False,),
    "modules_to_save": (None, []),
    "lora_bias": (False,),
    "layer_replication": (None,),
    "megatron_config": (None,),
    "trainable_token_indices": (None,),
    "target_parameters": (None, []),
    "alora_invocation_tokens": (None,),
    "use_qalora": (False,),
    "arrow_config": (None,),
    "use_bdlora": (None, False),
}


@dataclass(frozen=True)
class Probe:
    """A few fixed ids, and what the model says at their end with and without the adapter (at some words)."""

    ids: list[int]
    words: list[int]
    without: list[float]
    with_it: list[float]


def write(
    folder: Path,
    network: nn.Module,
    name: str,
    rules: Rules,
    *,
    base: Mapping[str, Any],
    probe: Probe | None,
    settings: Mapping[str, Any],
    transposed: bool,
) -> None:
    """Write the adapter `name` into an existing empty folder.

    base: what groundup.json says of the base. settings: `r`, `lora_alpha`, `lora_dropout`, `use_rslora`, `task_type`.
    """
    held = pairs(network, name)
    shapes = _shapes(network)
    plan = rules.modules(_whole_groups(rules, list(held), shapes))
    if plan.unused:
        raise UsageError(f"PEFT's layout has no place for an adapter on {', '.join(plan.unused[:4])}")
    out: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for entry in plan.entries:
        (module,) = entry.sources
        a, b, scale = _joined(entry, held, shapes)
        out[f"{PREFIX}{module}.lora_A.weight"], out[f"{PREFIX}{module}.lora_B.weight"] = a, b
        if len(a) != settings["r"]:
            ranks[module] = len(a)
        alpha = scale * (math.sqrt(len(a)) if settings["use_rslora"] else len(a))
        if not math.isclose(alpha, settings["lora_alpha"], rel_tol=1e-6):
            alphas[module] = alpha
    modules = [m for e in plan.entries for m in e.sources]
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base.get("name"),
        "revision": None,
        "inference_mode": True,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "init_lora_weights": True,
        "modules_to_save": None,
        "target_modules": sorted(modules),
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        **settings,
    }
    write_json(folder / "adapter_config.json", config)
    write_safetensors(folder / "adapter_model.safetensors", out, {"format": "pt"})
    ours: dict[str, Any] = {"format": 1, "base": dict(base)}
    if probe is not None:
        ours["probe"] = vars(probe)
    write_json(folder / "groundup.json", ours)


def _shapes(network: nn.Module) -> dict[str, tuple[int, int]]:
    """(out, in) of every linear."""
    return {name: weight_of(part).shape for name, part in linears(network).items()}


def _whole_groups(rules: Rules, paths: list[str], shapes: Mapping[str, tuple[int, int]]) -> list[str]:
    """The linears of an adapter, and those that share a public module with one of them."""
    wanted, whole = set(paths), list[str]()
    for entry in rules.modules(list(shapes)).entries:
        if wanted & set(entry.targets):
            whole += entry.targets
    return whole + [p for p in paths if p not in whole]


def _joined(
    entry: Entry, held: Mapping[str, LowRank], shapes: Mapping[str, tuple[int, int]]
) -> tuple[Tensor, Tensor, float]:
    """A, B and the scale of one public module."""
    members = [held.get(t) for t in entry.targets]
    present = [m for m in members if m is not None]
    scale = present[0].scale
    if any(not math.isclose(m.scale, scale) for m in present):
        raise UsageError(f"{entry.sources[0]}: its parts have adapters of different strength, PEFT's layout holds one")
    one = all(m.a is present[0].a for m in present) and len(present) == len(members)
    sizes = [shapes[t][0] for t in entry.targets]
    if one:
        a = present[0].a.detach()
        parts = [m.b.detach() for m in present]
    else:
        a = torch.cat([m.a.detach() for m in present])
        parts, before = [], 0
        for member, size in zip(members, sizes, strict=True):
            wide = a.new_zeros(size, len(a))
            if member is not None:
                rank = len(member.a)
                wide[:, before : before + rank] = member.b.detach()
                before += rank
            parts.append(wide)
    (b,) = entry.inverse(parts)
    return a.float().contiguous(), b.float().contiguous(), scale


def read(folder: Path, network: nn.Module, name: str, rules: Rules) -> dict[str, Any]:
    """Put the adapter of a folder on this network (a copy of the caller's) under `name`; gives its PEFT settings.

    Raises UsageError for settings that are not supported, GroundupError for tensors that find no place.
    """
    if not (folder / "adapter_config.json").exists():
        raise UsageError(f"{folder}: no adapter_config.json in it, so this is not an adapter's folder")
    config = read_json(folder / "adapter_config.json")
    _check(config, folder)
    source = open_safetensors(folder / "adapter_model.safetensors")
    waiting, known = set(source.names), _shapes(network)
    for key in sorted(n for n in source.names if n.endswith(".lora_A.weight")):
        other = key.replace(".lora_A.", ".lora_B.")
        module = key.removeprefix(PREFIX).removesuffix(".lora_A.weight")
        entry = rules.module(module)
        if other not in waiting or entry is None:
            raise GroundupError(f"{folder.name}: {key} has {'no lora_B' if entry else 'no place in this model'}")
        waiting -= {key, other}
        a, b = source.read(key).float(), source.read(other).float()
        rank, alpha = (
            _pattern(config, "rank_pattern", module, config["r"]),
            _pattern(config, "alpha_pattern", module, config["lora_alpha"]),
        )
        if len(a) != rank or b.shape[1] != rank or rank > MOST_RANK:
            raise GroundupError(f"{folder.name}: {module} has rank {len(a)}, its settings say {rank}")
        if not bool(torch.isfinite(a).all() and torch.isfinite(b).all()):
            raise GroundupError(f"{folder.name}: {module} holds numbers that are not finite")
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        shared = nn.Parameter(a, requires_grad=False)
        parts = entry.forward([b])
        for target, part in zip(entry.targets, parts, strict=True):
            if target not in known:
                raise GroundupError(f"{folder.name}: {module} is {target} here, and this model has no such linear")
            wanted = known[target]
            if (part.shape[0], a.shape[1]) != wanted:
                raise GroundupError(
                    f"{folder.name}: {module} is for a linear of {part.shape[0]}x{a.shape[1]}, this model's is "
                    f"{wanted[0]}x{wanted[1]}: the adapter belongs to another base"
                )
            pair = LowRank(shared, part.clone(), scale=scale, dropout=config.get("lora_dropout", 0.0))
            put_pair(network, target, name, pair.requires_grad_(False))
    if waiting:
        raise GroundupError(f"{folder.name}: {len(waiting)} tensors have no place: {', '.join(sorted(waiting)[:4])}")
    if not pairs(network, name):
        raise GroundupError(f"{folder.name}: the file holds no LoRA")
    return config


def _check(config: Any, folder: Path) -> None:
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise UsageError(f"{folder.name}: an adapter of kind {kind!r} cannot be read; supported: LORA")
    for key in ("r", "lora_alpha"):
        if not isinstance(config.get(key), int | float) or config[key] <= 0:
            raise UsageError(f"{folder.name}: adapter_config.json says {key} = {config.get(key)!r}")
    unknown = [k for k in config if k not in READ and k not in NEUTRAL]
    changed = [f"{k} = {config[k]!r}" for k, v in NEUTRAL.items() if k in config and config[k] not in v]
    unknown = [k for k in unknown if config[k] not in (None, False, [], {})]
    if unknown or changed:
        raise UsageError(
            f"{folder.name}: adapter_config.json has settings that are not supported: {', '.join(changed + unknown)}"
        )


def _pattern(config: Mapping[str, Any], key: str, module: str, default: float) -> Any:
    """A module's own rank or strength, as PEFT finds it: a key that equals the name or its end."""
    for pattern, value in (config.get(key) or {}).items():
        if module == pattern or module.endswith("." + pattern):
            return value
    return default
