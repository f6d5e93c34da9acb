"""Texts as vectors: what a network that sees both ways makes of all tokens, pooled into one direction a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from groundup.nn.cache import Fresh
from groundup.nn.stack import Stack
from groundup.nn.step import Step


@torch.inference_mode()
def embed(
    network: Stack,
    rows: Sequence[list[int]],
    *,
    pooling: Literal["mean", "first"] = "mean",
    normalize: bool = True,
    adapter: str | None = None,
    batch: int = 32,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "n D"]:
    """A vector for each row of ids, of unit length: the mean over its tokens (arXiv 1908.10084), or its first token."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))  # like lengths together
    found: list[tuple[int, Tensor]] = []
    for begin in range(0, len(order), batch):
        group = order[begin : begin + batch]
        ids = torch.tensor([i for r in group for i in rows[r]], device=device)
        step = Step.of([len(rows[r]) for r in group], Fresh(), adapters=adapter, device=device)
        parts = network.run(ids, step).float().split(list(step.rows.lengths))
        found += [(r, x.mean(0) if pooling == "mean" else x[0]) for r, x in zip(group, parts, strict=True)]
    vectors = torch.stack([v for _, v in sorted(found, key=lambda pair: pair[0])])
    return torch.nn.functional.normalize(vectors, dim=1) if normalize else vectors
