"""Fewer key and value heads: those of each group of query heads become one (grouped queries, arXiv 2305.13245).

before   q q q q q q      after   q q q q q q        6 query heads share 2 key heads; the keys and values that
         k k k k k k              k     k            decoding must keep and read shrink by 6 / 2
"""

from __future__ import annotations

from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from groundup.core.errors import UsageError
from groundup.nn.attention import Attention
from groundup.nn.storage import Dense
from groundup.nn.surgery import shared

Network = TypeVar("Network", bound=nn.Module)
POOLS = ("mean", "first", "random")


def grouped(network: Network, kv_heads: int, *, pool: str = "mean", seed: int = 0) -> Network:
    """A copy of the network with `kv_heads` key and value heads in each attention; every other number is shared.

    pool  what a group's head becomes: the mean of its heads' projections (section 2.2 of the paper), its first head, or
          numbers drawn anew with the deviation of the old ones (seed)

    Neighbours stand in one group, as attention shares them. A head's numbers keep their places, so that rotary pairs
    stay pairs. Raises UsageError where the heads cannot be shared so, and for weights that are not plain matrices.
    """
    if pool not in POOLS:
        raise UsageError(f"pool {pool!r}: there are {', '.join(POOLS)}")
    network, draw = shared(network), torch.Generator().manual_seed(seed)
    for path, part in network.named_modules():
        if not isinstance(part, Attention):
            continue
        if kv_heads < 1 or part.kv_heads % kv_heads:
            possible = ", ".join(str(n) for n in range(1, part.kv_heads + 1) if part.kv_heads % n == 0)
            raise UsageError(f"{path} has {part.kv_heads} key heads: they make {possible} groups, not {kv_heads}")
        for projection in (part.k, part.v):
            weight = getattr(projection, "weight", None)
            if not isinstance(weight, Dense):
                raise UsageError(f"{path}: merge adapters first, and begin from the model before it was quantized")
            head = projection.out_features // part.kv_heads
            bias = projection.bias
            projection.weight = Dense(_pooled(weight.values.detach(), kv_heads, head, pool, draw))
            if bias is not None:
                own = "mean" if pool == "random" else pool
                projection.bias = nn.Parameter(_pooled(bias.detach(), kv_heads, head, own, draw), requires_grad=False)
        part.kv_heads = kv_heads
    return network


def _pooled(
    rows: Float[Tensor, "O *I"], groups: int, head: int, pool: str, draw: torch.Generator
) -> Float[Tensor, "GD *I"]:
    """Rows [H · Dh, ...] -> [G · Dh, ...]: number i of a group's head from numbers i of its heads."""
    heads = rows.unflatten(0, (groups, -1, head))
    if pool == "random":
        drawn = torch.randn(heads[:, 0].shape, generator=draw).to(rows) * rows.std()
        return drawn.flatten(0, 1)
    return (heads.mean(1) if pool == "mean" else heads[:, 0].clone()).flatten(0, 1)
