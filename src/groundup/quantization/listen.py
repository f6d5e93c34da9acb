"""What the linears of a network are given by real texts, for kinds that round with that in mind.

block i:   listen ── round ── go on          each block hears what the rounded blocks before it give (section 3 of
                                             arXiv 2210.17323), in one pass over all texts
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from groundup.core.errors import GroundupError, UsageError
from groundup.nn.linear import Holder
from groundup.nn.stack import Stack
from groundup.nn.surgery import canonical
from groundup.quantization.stored import Kind, Observer, Stored


class Gram(Observer):
    """Σ x xᵀ over all tokens [I, I], float32, and how many tokens."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.tokens = 0

    def see(self, x: Float[Tensor, "N I"], y: Float[Tensor, "N O"]) -> None:
        wide = x.float()
        product = wide.T @ wide
        self.total = product if self.total is None else self.total + product
        self.tokens += len(x)


class Ranges(Observer):
    """The least and the largest number of what goes in and of what comes out."""

    def __init__(self) -> None:
        self.inputs: tuple[float, float] = (0.0, 0.0)
        self.outputs: tuple[float, float] = (0.0, 0.0)
        self.tokens = 0

    def see(self, x: Float[Tensor, "N I"], y: Float[Tensor, "N O"]) -> None:
        self.inputs, self.outputs = _wider(self.inputs, x), _wider(self.outputs, y)
        self.tokens += len(x)


def _wider(known: tuple[float, float], x: Tensor) -> tuple[float, float]:
    return min(known[0], float(x.min())), max(known[1], float(x.max()))


class Listening(nn.Module):
    """A storage that tells an observer what it is given and what it gives."""

    def __init__(self, inner: Any, observer: Observer):
        super().__init__()
        self.inner, self.observer = inner, observer

    @property
    def shape(self) -> tuple[int, int]:
        return self.inner.shape

    def matmul(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        y = self.inner.matmul(x, bias)
        if len(x):
            self.observer.see(x, y)
        return y

    def rows(self, ids: Tensor) -> Tensor:
        return self.inner.rows(ids)

    def dense(self) -> Tensor:
        return self.inner.dense()


@torch.inference_mode()
def calibrated(
    network: nn.Module, kind: Kind, chosen: Sequence[Holder], run: Callable[[nn.Module], object]
) -> dict[int, Stored]:
    """Round the weights of these holders, in place, by what `run(network)` sends through them; the storages by the id of what
    was there.

    run  reads all texts in one call, so that each block is called once
    Raises UsageError for a holder outside the blocks and for a kind that does not listen, GroundupError where one heard nothing.
    """
    names = {id(part): canonical(path) for path, part in network.named_modules()}
    made: dict[int, Stored] = {}
    waiting = {id(holder) for holder in chosen}
    handles = []

    def before(block: nn.Module, given: tuple[Any, ...]) -> None:
        mine = [part for part in block.modules() if id(part) in waiting]
        observers = [kind.observer() for _ in mine]
        inner: list[Any] = [part.weight for part in mine]
        for part, observer in zip(mine, observers, strict=True):
            part.weight = Listening(part.weight, observer)
        try:
            block.forward(*given)
        finally:
            for part, storage in zip(mine, inner, strict=True):
                part.weight = storage
        for part, observer, storage in zip(mine, observers, inner, strict=True):
            if not observer.tokens:
                raise GroundupError(
                    f"{names[id(part)]} heard none of the texts: give more, or leave it out of the targets"
                )
            made[id(storage)] = part.weight = kind.calibrated(storage.dense(), observer)
            waiting.discard(id(part))

    for part in network.modules():
        if isinstance(part, Stack):
            handles += [block.register_forward_pre_hook(before) for block in part.blocks]
    inside = {id(p) for s in network.modules() if isinstance(s, Stack) for b in s.blocks for p in b.modules()}
    outside = [names[id(holder)] for holder in chosen if id(holder) not in inside]
    try:
        if outside:
            raise UsageError(
                f"{outside[0]} stands outside the blocks, where nothing listens: quantize it without texts"
            )
        run(network)
    finally:
        for handle in handles:
            handle.remove()
    if waiting:
        missed = next(names[id(holder)] for holder in chosen if id(holder) in waiting)
        raise GroundupError(f"{missed} heard none of the texts: give more, or leave it out of the targets")
    return made
