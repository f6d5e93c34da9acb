"""LOMO: plain steps taken within the backward pass (Lv et al., arXiv 2306.09782, section 3).

    backward reaches p ── its gradient g is whole ── p ← p - rate · g ── g is freed

At most one weight's gradient exists at a time, and there are no moments. Clipping by the norm of all gradients needs
to know them before the first step, so it takes a second backward pass (section 3.2): one measures, one steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from groundup.training import chance


class Lomo:
    """Steps fused into the backward pass. Has an optimizer's `state` and `param_groups`, both without content."""

    def __init__(self, parameters: Iterable[nn.Parameter], *, clip: float = 0.0):
        self.clip = clip
        self.state: dict[nn.Parameter, Any] = {}
        self.param_groups: list[dict[str, Any]] = [{"lr": 0.0}]
        self._rate: float | None = None  # None: measure
        self._squares: list[Tensor] = []
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(self._took)

    def _took(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        if self._rate is None:
            self._squares.append(parameter.grad.detach().pow(2).sum())
        else:
            parameter.data.add_(parameter.grad, alpha=-self._rate)
        parameter.grad = None

    def measure(self, loss: Tensor) -> Float[Tensor, ""]:
        """The norm of all gradients of the loss; no weight moves."""
        self._rate, self._squares = None, []
        loss.backward()
        return torch.stack([s.double().cpu() for s in self._squares]).sum().sqrt()

    def step(self, loss: Callable[[], Tensor], rate: float) -> float:
        """Compute the loss, go back through it, and step on the way; gives the loss."""
        if self.clip:
            before = chance.drawn()
            norm = float(self.measure(loss()))
            chance.put_back(before)  # the same dropout in the pass that steps
            rate *= min(1.0, self.clip / (norm + 1e-6))
        found = loss()
        self._rate = rate
        found.backward()
        return float(found.detach())

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing is kept that could be zeroed."""
