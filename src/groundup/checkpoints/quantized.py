"""A folder of a model whose weights are stored in few bits.

    config.json         the public keys, and quantization_config: {"quant_method": "groundup", "weights": {NAME: KIND}, "base": ...}
    model.safetensors   every tensor under its name in the network; what a storage holds stands below it:
                        blocks.0.attn.q.weight.codes

A NAME may say `{i}` for every block: "blocks.{i}.attn.q": "nf4:double=false". Public names and layouts do not fit codes and
scales (a transposed matrix has other groups), so these files keep the network's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from groundup.checkpoints.source import Source
from groundup.core.errors import GroundupError, UsageError
from groundup.core.rules import Rules
from groundup.nn.surgery import missing, numbers, tensors
from groundup.quantization.kinds import line, parse
from groundup.quantization.shrink import holders, stored

KEY = "quantization_config"
METHOD = "groundup"


def named(network: nn.Module) -> dict[str, Tensor]:
    """All tensors by the names that the file has; a tied weight once."""
    small = stored(network)
    plain = {name: t for name, t in tensors(network).items() if name.removesuffix(".weight") not in small}
    return plain | {f"{name}.weight.{last}": t for name, s in small.items() for last, t in s.held.items()}


def described(network: nn.Module, base: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json says under `quantization_config`."""
    lines = {name: line(storage.kind) for name, storage in stored(network).items()}
    return {"quant_method": METHOD, "weights": _folded(lines), "base": dict(base)}


def fill(network: nn.Module, said: Mapping[str, Any], source: Source, rules: Rules, file: str) -> list[str]:
    """Give a network without numbers those of such a folder; a line for each thing worth knowing.

    Raises GroundupError where anything is left over on either side.
    """
    weights = said.get("weights")
    if not isinstance(weights, dict) or not all(isinstance(v, str) for v in weights.values()):
        raise GroundupError(f"{file}: {KEY} names no weights")
    found, waiting = holders(network), set(source.names)
    kinds = {name: text for name in found if (text := weights.get(name) or weights.get(_numberless(name)))}
    odd = set(weights) - set(kinds) - {_numberless(name) for name in kinds}
    if odd:
        raise GroundupError(f"{file}: {KEY} names weights that this model does not have: {', '.join(sorted(odd)[:4])}")
    for name, text in kinds.items():
        mine = [n for n in source.names if n.startswith(f"{name}.weight.")]
        waiting -= set(mine)
        held = {n.removeprefix(f"{name}.weight."): source.read(n).clone() for n in mine}
        try:
            found[name].weight = parse(text).read(held, found[name].weight.shape)
        except (GroundupError, UsageError) as error:
            raise GroundupError(f"{file}: {name}: {error}") from None
    empties = numbers(network)
    for name in missing(network):
        if name not in waiting:
            continue
        tensor, empty = source.read(name), empties[name]
        if tuple(tensor.shape) != tuple(empty.shape) or not bool(torch.isfinite(tensor).all()):
            raise GroundupError(f"{file}: {name} is {list(tensor.shape)}, not {list(empty.shape)}, or holds no numbers")
        path, _, last = name.rpartition(".")
        place: Any = found[path].weight if last == "weight" and path in found else network.get_submodule(path)
        setattr(place, "values" if place is not None and path in found and last == "weight" else last,
                nn.Parameter(tensor.clone(), requires_grad=False))  # fmt: skip
        waiting.discard(name)
    for rule in rules.table:
        path, other = rule.target.removesuffix(".weight"), (rule.tied_to or "").removesuffix(".weight")
        if other and f"{path}.weight" in missing(network) and f"{path}.weight" not in source.names:
            found[path].weight = found[other].weight
    lost = missing(network)
    if waiting or lost:
        raise GroundupError(
            f"{file}: {len(waiting)} tensors have no place ({', '.join(sorted(waiting)[:3]) or 'none'}), "
            f"{len(lost)} are missing ({', '.join(lost[:3]) or 'none'})"
        )
    return [f"{len(kinds)} weights are stored as {', '.join(sorted(set(kinds.values())))}"]


def _numberless(name: str) -> str:
    return re.sub(r"\.\d+\.", ".{i}.", name)


def _folded(lines: Mapping[str, str]) -> dict[str, str]:
    """One line for all blocks where they agree."""
    groups: dict[str, set[str]] = {}
    for name, text in lines.items():
        groups.setdefault(_numberless(name), set()).add(text)
    return {
        (short if len(groups[short]) == 1 else name): text
        for name, text in lines.items()
        for short in [_numberless(name)]
    }
