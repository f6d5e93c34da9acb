"""What a run will hold at most, found before it begins: one update of its largest batch, gone through without numbers.

    forward   weights, the optimizer's memory, and what the backward pass will need     <- mostly the worst moment
    backward  that shrinks while gradients grow
    step      weights, memory and gradients; what clipping and the step take for themselves

Every tensor of the update is counted as it comes and goes (`core.live`), so a new family or method needs no formula here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

from groundup.core.live import Live
from groundup.nn.cache import Slots
from groundup.nn.experts import Experts
from groundup.nn.stack import Decoder, Encoder
from groundup.nn.step import Step
from groundup.training.lomo import Lomo
from groundup.training.loop import Trainer


@dataclass(frozen=True)
class Memory:
    """Bytes that a run holds.

    weights      the base and what is trained, in every number format that is kept of them
    gradients    of what is trained; LOMO has one at a time
    optimizer    what the optimizer remembers, and moving averages
    activations  the most that the forward and backward pass of a batch holds beside these
    more         the most beside `weights` at any moment of an update
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    more: int

    @property
    def peak(self) -> int:
        return self.weights + self.more


def held(*tensors: Iterable[Tensor]) -> int:
    """The bytes of these tensors, each storage once."""
    live = Live()
    for some in tensors:
        live.add(some)
    return live.now


def of(network: nn.Module) -> list[Tensor]:
    """All that a network holds."""
    return [*network.parameters(), *network.buffers()]


def cache_bytes(network: nn.Module, device: torch.device | str = "cpu") -> int | None:
    """What a decoder without numbers keeps of each token that it has read; None where a network writes no text alone."""
    if not isinstance(network, Decoder) or isinstance(network, Encoder):
        return None
    cache = Slots(1, 1)
    with torch.no_grad():
        network.run(torch.ones(1, dtype=torch.long, device=device), Step.of([1], cache, device=device))
    return held(*cache.kept.values(), cache.coming.values())


def needed(trainer: Trainer, weights: int) -> Memory:
    """What an update of this trainer's largest batch holds; its network has no numbers (`surgery.without_numbers`).

    weights  the bytes of all weights that the run keeps
    """
    group = trainer.largest()
    count = sum(map(trainer.objective.count, group))
    with _Guess(trainer.network), Live() as live:
        live.add(of(trainer.network))
        if trainer.average is not None:
            live.add(trainer.average.held.values())
        trainer.network.train()
        start = live.now
        if isinstance(trainer.optimizer, Lomo):
            trainer.optimizer.measure(trainer.loss(group) / count)
            passes = live.peak - start
            return Memory(weights, 0, 0, passes, passes)
        trainer.gradients(group, count)
        passes, gradients = live.peak - start, live.now - start
        live.peak = live.now
        trainer.take(0.0)
        step, optimizer = live.peak - start, live.now - start
    if trainer.settings.accumulate > 1:  # what earlier batches left stands beside a later one's
        passes += gradients
    averages = 0 if trainer.average is None else held(trainer.average.held.values())
    return Memory(weights, gradients, optimizer + averages, passes, averages + max(passes + optimizer, step))


class _Guess(TorchDispatchMode):
    """What tensors without numbers cannot answer: a number is 1, and each expert is chosen by its share of the tokens."""

    def __init__(self, network: nn.Module):
        super().__init__()
        shares = [part.top / len(part.experts) for part in network.modules() if isinstance(part, Experts)]
        self.share = max(shares, default=1.0)

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = args[0] if args else None
        if isinstance(given, FakeTensor) and func is torch.ops.aten._local_scalar_dense.default:
            return 1.0 if given.is_floating_point() else 1
        if isinstance(given, FakeTensor) and func is torch.ops.aten.nonzero.default:
            found = math.ceil(len(given) * self.share)
            return given.new_empty((found, given.dim()), dtype=torch.long)
        if isinstance(given, FakeTensor) and func is torch.ops.aten.bincount.default:
            return given.new_empty(args[2], dtype=torch.long)
        return func(*args, **(kwargs or {}))
