"""A moving average of what is trained, kept beside it.

    update      1    2    3  ...  N          N+1                        each update later
    average     w₁   the plain mean so far   it moves 1/N of the way to the weights as they stand

Averaging the end of a run often validates better than its last weights (Polyak & Juditsky, SIAM J. Control 30, 1992;
Izmailov et al., arXiv 1803.05407). Of LoRA's two matrices each is averaged, not their product.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """The average over about `span` updates; `held` has one tensor for each that is trained."""

    def __init__(self, trained: Mapping[str, nn.Parameter], span: int):
        self.trained, self.span = trained, span
        self.held: dict[str, Tensor] = {name: torch.zeros_like(p.detach()) for name, p in trained.items()}

    @torch.no_grad()
    def add(self, update: int) -> None:
        """Take the weights as they stand after this update (the first is 1)."""
        share = 1 / min(update, self.span)
        for name, parameter in self.trained.items():
            self.held[name].lerp_(parameter, share)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Within it the weights are the average's."""
        with unchanged(self.trained):
            _put(self.held, self.trained)
            yield


@contextmanager
def unchanged(trained: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Whatever happens to these weights within, afterwards they are what they were, to the bit."""
    before = {name: p.detach().clone() for name, p in trained.items()}
    try:
        yield
    finally:
        _put(before, trained)


@torch.no_grad()
def _put(values: Mapping[str, Tensor], trained: Mapping[str, nn.Parameter]) -> None:
    for name, parameter in trained.items():
        parameter.copy_(values[name])
