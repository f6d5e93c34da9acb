"""What the labs on architectures share: tiny readers of the Bible, seconds, what a computation holds at once.

The readers learn from a stream of verses cut into rows. Every twentieth stretch of 200 verses is held out whole, so
that long rows of it are one text.
"""

import time
import weakref
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from m1_parts import pretrained
from m2_parts import write
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import groundup as gu
from groundup.data import rows
from groundup.inference.score import nll
from groundup.inputs.tokenizer import Encoded, Tokenizer
from groundup.training.packing import pack

STRETCH = 200


def verses() -> tuple[list[str], list[str]]:
    """To learn from, and held out."""
    found = [item.record["text"] for item in rows.Stream("bible").good()]
    held = [(i // STRETCH) % 20 == 10 for i in range(len(found))]
    return [v for v, h in zip(found, held, strict=True) if not h], [v for v, h in zip(found, held, strict=True) if h]


def reader(
    given: Namespace,
    name: str,
    family: str,
    sizes: Mapping[str, Any],
    *,
    length: int = 64,
    steps: int = 1500,
    rate: float = 3e-3,
    **more: Any,
) -> gu.Model:
    """A model of this family that has read the Bible in rows of `length` tokens; trained once and kept."""
    home = given.out.parent / ("readers-quick" if given.quick else "readers")
    for part, texts in zip(("train", "validation"), verses(), strict=True):
        if not (home / f"{part}.jsonl").exists():
            write(home / f"{part}.jsonl", [{"text": text} for text in texts])
    data = {"source": str(home / "train.jsonl"), "validation": str(home / "validation.jsonl"), "documents": "joined"}
    recipe = {
        "family": family,
        "model": dict(sizes),
        "tokenizer": {"kind": "bpe", "vocabulary": 2000},
        "data": {**data, "length": length},
        "batch": 16,
        "learning_rate": rate,
        "precision": "float32",
        **more,
    }
    return pretrained(recipe, home / name, steps=8 if given.quick else steps)


def stream(tokenizer: Tokenizer, length: int, *, held_out: bool = True) -> list[Encoded]:
    """The held-out verses (or those to learn from) as rows of exactly `length` tokens."""
    return [r for r in pack(verses()[held_out], tokenizer, length, documents="joined") if len(r.ids) == length]


def surprise(network: nn.Module, some: Sequence[Encoded]) -> float:
    """The mean surprise at a token, in nats."""
    total, count = nll(network, some)
    return total / count


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
