"""How many bytes a computation holds, and how many at most: counted as its tensors come and go."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Live(TorchDispatchMode):
    """Counts the bytes of every tensor made within `with Live() as live:` until it is freed, each storage once.

    now   bytes held; peak: the most so far
    What is on tensors without numbers (torch's FakeTensor) is counted alike, so a computation is measured before it is done.
    Not seen: what an operation takes for itself and gives back before it ends.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._held: dict[int, int] = {}

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Count tensors that were there before."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            place = storage._cdata
            if place not in self._held:
                self._held[place] = storage.nbytes()
                self.now += storage.nbytes()
                weakref.finalize(storage, self._freed, place)
        self.peak = max(self.peak, self.now)

    def _freed(self, place: int) -> None:
        self.now -= self._held.pop(place)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if not func._schema.is_mutable:  # what is written in place was there; torch's stand-ins make another one of it
            self.add(leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor))
        return made
