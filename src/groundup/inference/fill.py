"""The word that is missing: what a network that sees both ways puts in the place of a mask."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from groundup.core.errors import UsageError
from groundup.nn.cache import Fresh
from groundup.nn.stack import Encoder
from groundup.peft.front import lay


@torch.inference_mode()
def fill(
    network: Encoder,
    ids: Sequence[int],
    mask_id: int,
    *,
    top: int = 5,
    adapter: str | None = None,
    device: torch.device | str = "cpu",
) -> list[list[tuple[int, float]]]:
    """For each mask in `ids`, from left to right, the `top` likeliest ids with their probabilities (over all words).

    Each is told with the other masks unfilled (Devlin et al., arXiv 1810.04805, section 3.1).
    """
    places = [i for i, id in enumerate(ids) if id == mask_id]
    x, step, own = lay(network, [list(ids)], Fresh(), adapters=adapter, device=device)
    logits: Tensor = network(x, step, torch.tensor([own[0] + i for i in places], device=device)).float()
    if not 1 <= top <= logits.shape[1]:
        raise UsageError(f"top={top} makes no sense: the model knows {logits.shape[1]:,} words")
    best = logits.softmax(-1).topk(top)
    return [
        list(zip(words, shares, strict=True))
        for words, shares in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
