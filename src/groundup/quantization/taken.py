"""What a file holds for a storage, checked before it is used."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from groundup.core.errors import GroundupError

Wanted = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]


def take(held: Mapping[str, Tensor], wanted: Wanted) -> dict[str, Tensor]:
    """The tensors of a storage by name. GroundupError where one is missing, too many, or of another format or shape."""
    if set(held) != set(wanted):
        raise GroundupError(f"the storage holds {', '.join(sorted(held))}; it should hold {', '.join(sorted(wanted))}")
    for name, (dtype, shape) in wanted.items():
        if held[name].dtype != dtype or tuple(held[name].shape) != tuple(shape):
            said = f"{str(held[name].dtype).removeprefix('torch.')} {list(held[name].shape)}"
            raise GroundupError(f"{name} is {said}; it should be {str(dtype).removeprefix('torch.')} {list(shape)}")
        if dtype.is_floating_point and not bool(torch.isfinite(held[name].float()).all()):
            raise GroundupError(f"{name} holds numbers that are not finite")
    return dict(held)
