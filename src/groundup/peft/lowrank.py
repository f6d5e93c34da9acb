"""The pairs of LoRA: a frozen weight plus a trained product of two thin matrices (Hu et al., arXiv 2106.09685, eq. 3).

    y = x Wᵀ + b + s · (x Aᵀ) Bᵀ        A [rank, in], B [out, rank], s = alpha / rank

With rank stabilisation s = alpha / sqrt(rank) (Kalajdzievski, arXiv 2312.03732). With DoRA the columns of the sum keep
their direction and learn their length m (Liu et al., arXiv 2402.09353, eq. 5):  W' = m (W + s B A) / |W + s B A|.
B starts at zero and m at |W|, so nothing changes at the start.

A table of vectors [V, D] is a linear that is given ids, so it takes a pair as well, PEFT's `lora_embedding_A/B`:

    y = W[ids] + s · Aᵀ[ids] Bᵀ       A [rank, V] starts at zero, B [D, rank] does not

A head that is tied to the table stays the base's own, as in PEFT; merging unties the two.

What is set and what is written of it is in `lora.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.core.errors import UsageError
from groundup.kernels.plan import Hole, Plan, Register
from groundup.nn.linear import Linear
from groundup.nn.stack import EncoderDecoder
from groundup.nn.storage import Dense
from groundup.nn.surgery import embeddings, linears, weight_of
from groundup.peft.adapted import Part, parts
from groundup.peft.method import shapes


class LowRank(Part):
    """The trained pair of one linear, and DoRA's lengths. Shapes: a [rank, in], b [out, rank], length [out]."""

    def __init__(self, a: Tensor, b: Tensor, *, scale: float, dropout: float = 0.0, length: Tensor | None = None):
        super().__init__()
        self.a: nn.Parameter = a if isinstance(a, nn.Parameter) else nn.Parameter(a)  # a parameter is shared
        self.b: nn.Parameter = nn.Parameter(b)
        self.length = None if length is None else nn.Parameter(length)
        self.scale, self.dropout = scale, dropout

    @property
    def alone(self) -> bool:
        """DoRA's lengths are of the base's own rows."""
        return self.length is not None

    def after(self, y: Float[Tensor, "T O"], x: Float[Tensor, "T I"], linear: Linear) -> Float[Tensor, "T O"]:
        """y + s · (x Aᵀ) Bᵀ, into y itself; with lengths, m / |W + s B A| times that, but for the bias."""
        if self.dropout and self.training:
            x = F.dropout(x, self.dropout)
        narrow = F.linear(x, self.a.to(x.dtype))
        if self.length is None:
            return y.addmm_(narrow, self.b.to(x.dtype).T, alpha=self.scale)
        with torch.no_grad():  # the norm is taken as a constant (section 4.3)
            norm = torch.linalg.vector_norm(linear.weight.dense().float() + self.delta(), dim=1)
        factor = (self.length / norm).to(x.dtype)
        bias = None if linear.bias is None else linear.bias.to(x.dtype)
        y = torch.addmm(y if bias is None else y - bias, narrow, self.b.to(x.dtype).T, alpha=self.scale) * factor
        return y if bias is None else y + bias

    def lower_after(self, plan: Plan, y: Register, x: Register, name: str) -> Register:
        if self.length is not None:
            raise Hole("DoRA's lengths")
        return plan.low_rank(y, x, self.a, self.b, self.scale, name)

    def delta(self) -> Float[Tensor, "O I"]:
        """s · B A, what the pair adds to the weight."""
        return self.scale * (self.b @ self.a)

    def folded(self, linear: Linear) -> Linear:
        """W + s · B A, rounded once to W's format. A tied weight is untied, since its other place must not change."""
        dense = linear.weight.dense()
        with torch.no_grad():
            exact = dense.double() + self.scale * (self.b.double() @ self.a.double())
            if self.length is not None:
                exact *= (self.length.double() / exact.norm(dim=1))[:, None]
        linear.weight = Dense(exact.to(dense.dtype))
        return linear

    def extra_repr(self) -> str:
        return f"rank {len(self.a)}, scale {self.scale:.4g}"


class LowRows(LowRank):
    """The trained pair of a table of vectors [V, D]. Shapes: a [rank, V], b [D, rank]."""

    def after(self, y: Float[Tensor, "T D"], x: Int[Tensor, " T"], linear: Any) -> Float[Tensor, "T D"]:
        narrow = F.embedding(x, self.a.T)
        return y.addmm_(narrow.to(y.dtype), self.b.to(y.dtype).T, alpha=self.scale)

    def folded(self, linear: Any) -> Any:
        """W + s · (B A)ᵀ. A head that is tied to the table keeps the old one."""
        dense = linear.weight.dense()
        with torch.no_grad():
            exact = dense.double() + self.scale * (self.b.double() @ self.a.double()).T
        linear.weight = Dense(exact.to(dense.dtype))
        return linear


def summed(pairs: Sequence[tuple[float, LowRank]], rank: int | None, kept: dict[Any, nn.Parameter]) -> LowRank:
    """The pair whose product is Σ w s B A of these: their factors end to end, or the best product of this rank.

    kept: sums of A's that were made already, since an A may serve several linears.
    """
    if any(p.length is not None for _, p in pairs):
        raise UsageError("combine: DoRA's lengths have no weighted sum; use the adapters of plain LoRA")
    if rank is not None:
        u, s, v = torch.linalg.svd(sum(w * p.delta().double() for w, p in pairs), full_matrices=False)
        a, b = v[:rank].float(), (u[:, :rank] * s[:rank]).float()
        return type(pairs[0][1])(a, b, scale=1.0)
    whose = tuple((w * p.scale, id(p.a)) for w, p in pairs)
    if whose not in kept:
        kept[whose] = nn.Parameter(torch.cat([w * p.scale * p.a.detach() for w, p in pairs]))
    return type(pairs[0][1])(kept[whose], torch.cat([p.b.detach() for _, p in pairs], dim=1), scale=1.0)


def lowranks(network: nn.Module, name: str) -> dict[str, LowRank]:
    """The pairs of one adapter by the canonical names of their linears."""
    return {path: part for path, part in parts(network, name).items() if isinstance(part, LowRank)}


def sizes_of(network: nn.Module) -> dict[str, tuple[int, int]]:
    """(out, in) of every linear; of a table of vectors (D, V), since it is a linear that is given ids."""
    tables = {path: (table.weight.shape[1], table.weight.shape[0]) for path, table in embeddings(network).items()}
    return shapes(network) | tables


def refuse_table(network: nn.Module, path: str, *, dora: bool) -> None:
    """UsageError where a table of vectors takes no pair."""
    if dora:
        raise UsageError(f"dora: {path} is a table of vectors, which has no rows to stretch; leave one of the two out")
    if isinstance(network, EncoderDecoder):
        raise UsageError(
            f"{path}: an encoder and a decoder share this table, and PEFT's layout adapts one; name linears"
        )


def add_length(network: nn.Module, path: str, name: str) -> None:
    """Let the lengths of a fresh pair be those of the weight's rows."""
    dense = weight_of(linears(network)[path]).dense()
    lowranks(network, name)[path].length = nn.Parameter(torch.linalg.vector_norm(dense.float(), dim=1).detach())
