"""All that a run needs to go on as if it had never stopped, in safetensors and JSON; never a pickle.

    state-00000120/  tensors.safetensors   trained weights, their average, optimizer moments, the random generators
                     state.json            step, place in the data, losses; sha256 of the tensors

A state appears whole under its name or not at all. The two newest are kept, and a damaged one is passed over for the
one before it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from groundup.checkpoints.safetensors import open_safetensors, write_safetensors
from groundup.core.errors import GroundupError
from groundup.core.files import atomic_folder, read_json, sha256, write_json
from groundup.training import chance
from groundup.training.lomo import Lomo

KEPT = 2


@dataclass
class State:
    """Where a run stands. `facts` are plain numbers and texts."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def capture(
    trained: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer | Lomo,
    average: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Weights, their average, moments and random state as named tensors."""
    found = chance.drawn()
    found |= {f"average/{name}": value for name, value in (average or {}).items()}
    for name, parameter in trained.items():
        found[f"weight/{name}"] = parameter.detach()
        for key, value in optimizer.state.get(parameter, {}).items():
            found[f"{key}/{name}"] = value
    return found


def restore(
    found: Mapping[str, Tensor],
    trained: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer | Lomo,
    average: Mapping[str, Tensor] | None = None,
) -> None:
    """Put a captured state back, to the bit. Raises GroundupError when it is of another set of weights."""
    wanted = {f"weight/{name}" for name in trained}
    held = {name for name in found if name.startswith("weight/")}
    if wanted != held:
        odd = sorted(wanted ^ held)
        raise GroundupError(f"the saved state trains other weights ({len(odd)} differ: {', '.join(odd[:3])})")
    chance.put_back(found)
    for name, value in found.items():
        key, _, of = name.partition("/")
        if key in ("weight", "average"):
            place = trained[of] if key == "weight" else (average or {})[of]
            place.detach().copy_(value)
        elif of in trained:
            optimizer.state.setdefault(trained[of], {})[key] = value.to(trained[of].device, copy=True)


def save(run: Path, step: int, state: State) -> None:
    """Keep a state; older ones than the two newest go."""
    path = run / f"state-{step:08d}"
    if not path.exists():
        with atomic_folder(path) as folder:
            tensors = {n: t.contiguous() for n, t in state.tensors.items()}
            write_safetensors(folder / "tensors.safetensors", tensors, {})
            write_json(folder / "state.json", {**state.facts, "sha256": sha256(folder / "tensors.safetensors")})
    for old in states(run)[:-KEPT]:
        shutil.rmtree(old)


def states(run: Path) -> list[Path]:
    """The states of a run, oldest first."""
    return sorted(p for p in run.glob("state-*") if p.is_dir() and p.name.removeprefix("state-").isdigit())


def newest(run: Path) -> tuple[State | None, list[str]]:
    """The newest state that is whole, and a line for each one that is not."""
    damaged: list[str] = []
    for path in reversed(states(run)):
        try:
            facts = read_json(path / "state.json")
            if sha256(path / "tensors.safetensors") != facts.pop("sha256"):
                raise GroundupError("the hash of its tensors differs")
            source = open_safetensors(path / "tensors.safetensors")
            return State({n: source.read(n).clone() for n in source.names}, facts), damaged
        except (GroundupError, OSError, KeyError, AttributeError) as e:
            damaged.append(f"{path.name} is damaged and was passed over: {e}")
            shutil.rmtree(path, ignore_errors=True)
    return None, damaged
