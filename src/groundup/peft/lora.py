"""LoRA: a frozen weight plus a trained product of two thin matrices (Hu et al., arXiv 2106.09685, eq. 3).

    y = x Wᵀ + b + s · (x Aᵀ) Bᵀ        A [rank, in], B [out, rank], s = alpha / rank

With rank stabilisation s = alpha / sqrt(rank) (Kalajdzievski, arXiv 2312.03732). B starts at zero, so nothing changes
at the start. Several adapters live side by side under their names; the `Step` says which one each row uses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from groundup.core.errors import UsageError
from groundup.nn.linear import Linear
from groundup.nn.step import Step
from groundup.nn.storage import Dense
from groundup.peft.surgery import Network, linears, match, replace, shared


@dataclass(frozen=True)
class LoRA:
    """Settings of the method.

    rank             inner width of the product
    alpha            strength; the product is multiplied by alpha / rank
    targets          which linears, by the ends of their canonical names ("attn.q attn.v"), or "all" (but the head)
    dropout          share of the inputs of A that training drops
    rank_stabilized  multiply by alpha / sqrt(rank) instead
    """

    rank: int = 8
    alpha: float = 16.0
    targets: str = "attn.q attn.v"
    dropout: float = 0.0
    rank_stabilized: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UsageError(f"rank {self.rank}: LoRA needs a rank of at least 1")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout {self.dropout}: give a share from 0 to below 1")

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)


class LowRank(nn.Module):
    """The trained pair of one linear. Shapes: a [rank, in], b [out, rank]."""

    def __init__(self, a: Tensor, b: Tensor, *, scale: float, dropout: float = 0.0):
        super().__init__()
        self.a: nn.Parameter = a if isinstance(a, nn.Parameter) else nn.Parameter(a)  # a parameter is shared
        self.b: nn.Parameter = nn.Parameter(b)
        self.scale, self.dropout = scale, dropout

    def add_to(self, y: Float[Tensor, "T O"], x: Float[Tensor, "T I"]) -> Float[Tensor, "T O"]:
        """y + s · (x Aᵀ) Bᵀ, into y itself."""
        if self.dropout and self.training:
            x = F.dropout(x, self.dropout)
        narrow = F.linear(x, self.a.to(x.dtype))
        return y.addmm_(narrow, self.b.to(x.dtype).T, alpha=self.scale)

    def delta(self) -> Float[Tensor, "O I"]:
        """s · B A, what the pair adds to the weight."""
        return self.scale * (self.b @ self.a)

    def extra_repr(self) -> str:
        return f"rank {len(self.a)}, scale {self.scale:.4g}"


class Adapted(nn.Module):
    """A linear with the pairs of one or more adapters. Shapes: x [T, in] -> [T, out]."""

    def __init__(self, base: Linear):
        super().__init__()
        self.base = base
        self.pairs = nn.ModuleDict()

    def forward(self, x: Float[Tensor, "T I"], step: Step) -> Float[Tensor, "T O"]:
        y = self.base(x, step)
        used = step.adapters
        if used is None:
            return y
        if isinstance(used, str):
            pair = self.pair(used)
            return y if pair is None else pair.add_to(y, x)
        for name, index in step.by_adapter().items():
            pair = self.pair(name)
            if pair is not None:
                y = y.index_add(0, index, pair.add_to(torch.zeros_like(y[index]), x[index]))
        return y

    def pair(self, name: str) -> LowRank | None:
        """The pair of this adapter, None where it does not touch this linear."""
        if name not in self.pairs:
            return None
        found = self.pairs[name]
        assert isinstance(found, LowRank)
        return found


def add_lora(network: Network, method: LoRA, name: str, *, seed: int = 0) -> Network:
    """A copy of the network, sharing every weight, with a fresh adapter `name` on the targets.

    Raises UsageError when a target matches nothing or the name is taken.
    """
    network = shared(network)
    generator = torch.Generator().manual_seed(seed)
    for path in match(list(linears(network)), method.targets):
        holder = _holder(network, path, name)
        out_features, in_features = holder.base.weight.shape
        bound = 1 / math.sqrt(in_features)
        a = torch.empty(method.rank, in_features).uniform_(-bound, bound, generator=generator)
        pair = LowRank(a, torch.zeros(out_features, method.rank), scale=method.scale, dropout=method.dropout)
        holder.pairs[name] = pair.to(next(holder.base.parameters()).device)
    return network


def put_pair(network: nn.Module, path: str, name: str, pair: LowRank) -> None:
    """Put a pair that was read from a file on the linear `path` of this very network."""
    _holder(network, path, name).pairs[name] = pair


def _holder(network: nn.Module, path: str, name: str) -> Adapted:
    try:
        found = network.get_submodule(path)
    except AttributeError:
        raise UsageError(f"adapter {name}: this model has no linear {path}") from None
    if isinstance(found, Adapted):
        if name in found.pairs:
            raise UsageError(f"an adapter {name!r} is on {path} already; give the new one another name")
        return found
    assert isinstance(found, Linear)
    holder = Adapted(found)
    replace(network, path, holder)
    return holder


def pairs(network: nn.Module, name: str) -> dict[str, LowRank]:
    """The pairs of one adapter by the canonical names of their linears."""
    found: dict[str, LowRank] = {}
    for path, part in network.named_modules():
        if isinstance(part, Adapted) and (pair := part.pair(name)) is not None:
            found[path] = pair
    return found


def trained(network: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """What training moves, each parameter once: `blocks.0.attn.q.a` ..."""
    found: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for path, pair in pairs(network, name).items():
        for last, parameter in (("a", pair.a), ("b", pair.b)):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                found[f"{path}.{last}"] = parameter
    return found


def merged(network: Network, name: str) -> Network:
    """A copy with the adapter added to the weights and no wrappers left: W + s · B A, rounded once to W's format.

    A tied weight that is adapted in one of its places is untied first, since the other place must not change.
    """
    network = shared(network)
    for path, part in list(network.named_modules()):
        if isinstance(part, Adapted):
            linear = Linear(1, 1, bias=False)
            linear.weight, linear.bias = part.base.weight, part.base.bias
            pair = part.pair(name)
            if pair is not None:
                dense = part.base.weight.dense()
                with torch.no_grad():
                    exact = dense.double() + pair.scale * (pair.b.double() @ pair.a.double())
                linear.weight = Dense(exact.to(dense.dtype))
            replace(network, path, linear)
    return network
