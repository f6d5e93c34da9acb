"""The doors through which a weight multiplies an activation, and the table that turns ids into vectors.

A holder keeps a `Storage` as `.weight` and owns its bias. Methods of tuning wrap a holder and keep it as `.base`,
so that whatever a storage is made of stays out of their sight.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.kernels.plan import Plan, Register
from groundup.nn.step import Step
from groundup.nn.storage import Storage, empty


class Linear(nn.Module):
    """y = x Wᵀ + b for the tokens of all rows at once.

    Shapes: x [T, in] -> [T, out].
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True):
        super().__init__()
        self.weight: Storage = empty(out_features, in_features)
        self.bias = nn.Parameter(torch.empty(out_features), requires_grad=False) if bias else None

    @property
    def in_features(self) -> int:
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        return self.weight.shape[0]

    def forward(self, x: Float[Tensor, "T I"], step: Step) -> Float[Tensor, "T O"]:
        return self.weight.matmul(x, self.bias)

    def lower(self, plan: Plan, x: Register) -> Register:
        return self.weight.lower(plan, x, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}{', bias' if self.bias is not None else ''}"


class Embedding(nn.Module):
    """One vector for each id.

    Shapes: ids [T] -> [T, width].
    """

    def __init__(self, entries: int, width: int):
        super().__init__()
        self.weight: Storage = empty(entries, width)

    @property
    def entries(self) -> int:
        return self.weight.shape[0]

    @property
    def width(self) -> int:
        return self.weight.shape[1]

    def forward(self, ids: Int[Tensor, " T"], step: Step) -> Float[Tensor, "T D"]:
        return self.weight.rows(ids)

    def extra_repr(self) -> str:
        return f"{self.entries} entries of {self.width}"


def tie(holder: Linear | Embedding, to: Linear | Embedding) -> None:
    """Let `holder` use the very storage of `to` (a head that is the transposed embedding); re-storing keeps the tie."""
    holder.weight = to.weight


Holder = Linear | Embedding
"""What holds a storage."""
