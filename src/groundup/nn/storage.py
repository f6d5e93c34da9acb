"""How a weight is kept, and the few things a model may ask of it.

A weight is never touched directly. Its holder (`Linear`, `Embedding`) asks the storage to multiply, to look rows up
or to give itself as an ordinary matrix, so that a quantized weight is one more class here and nothing elsewhere.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import cache
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.core.machine import remembered
from groundup.kernels.plan import Plan, Register

FEW = 64  # tokens up to which the way of multiplying is chosen by measuring


@runtime_checkable
class Storage(Protocol):
    """A matrix of `shape` (out, in), however its numbers are kept. Implementations are `nn.Module`s."""

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        ...

    def matmul(self, x: Float[Tensor, "N I"], bias: Float[Tensor, " O"] | None = None) -> Float[Tensor, "N O"]:
        """x Wᵀ + bias, in the number format of `x`."""
        ...

    def lower(self, plan: Plan, x: Register, bias: Float[Tensor, " O"] | None) -> Register:
        """`matmul` as an operation of a plan. Raises `Hole` where there is none."""
        ...

    def rows(self, ids: Int[Tensor, " N"]) -> Float[Tensor, "N I"]:
        """The rows `ids` of the matrix."""
        ...

    def dense(self) -> Float[Tensor, "O I"]:
        """The whole matrix as ordinary numbers."""
        ...


class Dense(nn.Module):
    """The plain kind: one tensor `values` [out, in] of floating-point numbers.

    A storage is frozen until a method of tuning takes it: `requires_grad` starts as False.
    """

    def __init__(self, values: Float[Tensor, "O I"]):
        super().__init__()
        self.values = nn.Parameter(values, requires_grad=False)

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    def matmul(self, x: Float[Tensor, "N I"], bias: Float[Tensor, " O"] | None = None) -> Float[Tensor, "N O"]:
        values: Tensor = self.values
        if values.dtype != x.dtype:  # float32 masters under bfloat16 activations: round once, here
            values = values.to(x.dtype)
        if bias is not None and bias.dtype != x.dtype:
            bias = bias.to(x.dtype)
        if x.shape[0] <= FEW and x.device.type == "cpu" and not torch.is_grad_enabled():
            return WAYS[_fastest(x.dtype, x.shape[0] == 1)](x, values, bias)
        return F.linear(x, values, bias)

    def lower(self, plan: Plan, x: Register, bias: Float[Tensor, " O"] | None) -> Register:
        return plan.dense(x, self.values, bias)

    def rows(self, ids: Int[Tensor, " N"]) -> Float[Tensor, "N I"]:
        return F.embedding(ids, self.values)

    def dense(self) -> Float[Tensor, "O I"]:
        return self.values

    def extra_repr(self) -> str:
        return f"{tuple(self.values.shape)}, {str(self.values.dtype).removeprefix('torch.')}"


def _by_threads(x: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear` in a slice of the matrix for each thread: a single product may hardly use a second one."""
    slices, tokens = torch.get_num_threads(), len(x)
    out, width = values.shape
    if out % slices or not tokens:
        return F.linear(x, values, bias)
    parts = torch.bmm(x.expand(slices, tokens, width), values.view(slices, out // slices, width).mT)
    y = parts.transpose(0, 1).reshape(tokens, out)
    return y if bias is None else y + bias


def _by_rows(x: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear` as a product of the matrix and a vector, where there is one token."""
    if x.shape[0] != 1:
        return F.linear(x, values, bias)
    y = torch.mv(values, x[0]) if bias is None else torch.addmv(bias, values, x[0])
    return y[None]


WAYS: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    "linear": F.linear,
    "slices": _by_threads,
    "vector": _by_rows,
}


@cache
def _fastest(dtype: torch.dtype, single: bool) -> str:
    """The way in which this machine multiplies few tokens fastest: the same three products differ by 2 either way."""
    name = f"{str(dtype).removeprefix('torch.')} products of {'one token' if single else 'few tokens'}"
    return remembered(name, lambda: _measured(dtype, 1 if single else 16))


def _measured(dtype: torch.dtype, tokens: int) -> str:
    matrices = [torch.randn(1536, 576).to(dtype) for _ in range(12)]  # more than a cache of the core holds
    x = torch.randn(tokens, 576).to(dtype)
    ways = WAYS if tokens == 1 else {name: WAYS[name] for name in ("linear", "slices")}
    spent = {}
    for name, way in ways.items():
        best = math.inf
        for _ in range(5):
            start = time.perf_counter()
            for values in matrices:
                way(x, values, None)
            best = min(best, time.perf_counter() - start)
        spent[name] = best
    quickest = min(spent, key=lambda name: spent[name])
    return quickest if spent[quickest] * 1.1 < spent["linear"] else "linear"


def empty(out_features: int, in_features: int) -> Dense:
    """A dense storage with room for its numbers and no numbers yet (on the current default device)."""
    return Dense(torch.empty(out_features, in_features))
