"""How a weight is kept, and the few things a model may ask of it.

A weight is never touched directly. Its holder (`Linear`, `Embedding`) asks the storage to multiply, to look rows up
or to give itself as an ordinary matrix, so that a quantized weight is one more class here and nothing elsewhere.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

FEW = 64  # tokens up to which a product is cut into slices


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
        if len(x) <= FEW and x.dtype == torch.float32 and x.device.type == "cpu" and not torch.is_grad_enabled():
            return _by_threads(x, values, bias)
        return F.linear(x, values, bias)

    def rows(self, ids: Int[Tensor, " N"]) -> Float[Tensor, "N I"]:
        return F.embedding(ids, self.values)

    def dense(self) -> Float[Tensor, "O I"]:
        return self.values

    def extra_repr(self) -> str:
        return f"{tuple(self.values.shape)}, {str(self.values.dtype).removeprefix('torch.')}"


def _by_threads(x: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear` for few tokens: a slice of the matrix for each thread.

    A single product of few rows hardly uses a second thread (measured: 1.3 to 2 times as fast in slices on two).
    """
    slices, tokens = torch.get_num_threads(), len(x)
    out, width = values.shape
    if out % slices or not tokens:
        return F.linear(x, values, bias)
    parts = torch.bmm(x.expand(slices, tokens, width), values.view(slices, out // slices, width).mT)
    y = parts.transpose(0, 1).reshape(tokens, out)
    return y if bias is None else y + bias


def empty(out_features: int, in_features: int) -> Dense:
    """A dense storage with room for its numbers and no numbers yet (on the current default device)."""
    return Dense(torch.empty(out_features, in_features))
