"""What the labs of module 3 share: the fall of a line on axes of powers, what a computation holds at once, seconds."""

import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Held(TorchDispatchMode):
    """The most bytes that what is computed under it holds at once, its arguments aside."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage().data_ptr() for t in args if isinstance(t, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, tuple | list) else [out]:
            if isinstance(t, torch.Tensor) and t.untyped_storage().data_ptr() not in given:
                self._count(t.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        place, size = storage.data_ptr(), storage.nbytes()
        if not size or place in self.known:
            return

        def gone(_: Any) -> None:
            self.now -= size
            del self.known[place]

        self.known[place] = weakref.ref(storage, gone)
        self.now += size
        self.most = max(self.most, self.now)


def bytes_held(work: Callable[[], object]) -> int:
    """The most bytes that `work` holds at once."""
    with Held() as held:
        work()
    return held.most


def seconds(work: Callable[[], object], times: int = 3) -> float:
    """The shortest of some runs, after one that is not counted."""
    work()
    best = float("inf")
    for _ in range(times):
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return best


def power(sizes: Sequence[float], values: Sequence[float]) -> float:
    """p of the line size^p that lies nearest to the values, on axes of powers."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])
