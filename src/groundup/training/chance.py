"""The random generators that dropout draws from: the processor's, and that of each GPU in use."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def drawn() -> dict[str, Tensor]:
    """Where the generators stand: `random`, and `random/cuda:N` of each GPU that has been used."""
    found = {"random": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        found |= {f"random/cuda:{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return found


def put_back(found: Mapping[str, Tensor]) -> None:
    """Let the generators go on from there; a GPU that is not here any more is passed over."""
    torch.set_rng_state(found["random"].clone())
    for i in range(torch.cuda.device_count()):
        if f"random/cuda:{i}" in found:
            torch.cuda.set_rng_state(found[f"random/cuda:{i}"].clone(), i)
