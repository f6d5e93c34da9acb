"""What every way of shrinking a weight is: settings that make a storage of a matrix, and the storage that they make.

A kind is one file: a frozen dataclass of settings (its fields are written as `nf4:block=64`) and the `Stored` that it makes.
What a storage holds are buffers, so that a change of the number format of a network leaves its codes and scales alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.core.errors import UsageError
from groundup.kernels.plan import Hole, Plan, Register


class Stored(nn.Module, ABC):
    """A frozen matrix [out, in] in fewer bits: a `nn.storage.Storage` whose `dense` is computed when it is asked for.

    kind  the settings that it was made with
    """

    def __init__(self, kind: Kind, shape: tuple[int, int], held: Mapping[str, Tensor]):
        super().__init__()
        self.kind, self._shape = kind, (int(shape[0]), int(shape[1]))
        for name, tensor in held.items():
            self.register_buffer(name, tensor)

    @property
    def shape(self) -> tuple[int, int]:
        return self._shape

    @abstractmethod
    def dense(self) -> Float[Tensor, "O I"]:
        """The matrix as it counts now, in float32."""

    def rows(self, ids: Int[Tensor, " N"]) -> Float[Tensor, "N I"]:
        """Some rows of `dense()`."""
        return self.dense()[ids]

    def product(self, x: Float[Tensor, "N I"]) -> Float[Tensor, "N O"]:
        """x Wᵀ in the format of x, without gradients."""
        return F.linear(x, self.dense().to(x.dtype))

    def matmul(self, x: Float[Tensor, "N I"], bias: Float[Tensor, " O"] | None = None) -> Float[Tensor, "N O"]:
        y = _Product.apply(x, self) if x.requires_grad and torch.is_grad_enabled() else self.product(x)
        return y if bias is None else y + bias.to(y.dtype)

    def lower(self, plan: Plan, x: Register, bias: Float[Tensor, " O"] | None) -> Register:
        raise Hole(f"weights in {self.kind.name}")

    @property
    def held(self) -> dict[str, Tensor]:
        """All that it keeps, by name."""
        return dict(self.named_buffers(recurse=False))

    @property
    def bits(self) -> float:
        """Bits a number, scales and all."""
        return 8 * sum(t.nbytes for t in self.held.values()) / max(1, self._shape[0] * self._shape[1])

    def extra_repr(self) -> str:
        return f"{self._shape}, {self.kind.name}, {self.bits:.2f} bits"


class _Product(torch.autograd.Function):
    """x Wᵀ whose backward pass makes W again: nothing of its size is kept meanwhile, and W learns nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, storage: Stored) -> Tensor:
        ctx.storage = storage
        return storage.product(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (g,) = grads
        return g @ ctx.storage.dense().to(g.dtype), None


class Observer(ABC):
    """What a kind wants to know of the activations of a linear; `tokens` counts what it saw."""

    tokens: int = 0

    @abstractmethod
    def see(self, x: Float[Tensor, "N I"], y: Float[Tensor, "N O"]) -> None:
        """What the linear was given, and what it gave."""


@dataclass(frozen=True)
class Kind(ABC):
    """Base of all kinds; a subclass is a frozen dataclass of its settings.

    name  how it is asked for: `--to nf4`
    """

    name: ClassVar[str]

    def observer(self) -> Observer:
        """What listens while texts are read. UsageError for kinds that do not round by texts."""
        raise self._deaf()

    def calibrated(self, weight: Float[Tensor, "O I"], seen: Any) -> Stored:
        """The matrix in this kind, rounded with what the observer saw. UsageError as of `observer`."""
        raise self._deaf()

    def _deaf(self) -> UsageError:
        return UsageError(f"{self.name} does not look at activations: leave the texts to calibrate by out")

    @abstractmethod
    def store(self, weight: Float[Tensor, "O I"]) -> Stored:
        """The matrix in this kind. Raises UsageError where the kind does not take it."""

    @abstractmethod
    def read(self, held: Mapping[str, Tensor], shape: tuple[int, int]) -> Stored:
        """The storage whose `held` this is. Raises GroundupError for tensors that do not fit it."""
