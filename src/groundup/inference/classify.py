"""What a head for labels says of texts: the scores of whole rows, or of chosen tokens, and their probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from groundup.core.labels import Labels
from groundup.nn.cache import Fresh
from groundup.nn.heads import spot
from groundup.nn.stack import Decoder
from groundup.nn.step import Step
from groundup.peft.front import lay


def judged(
    network: Decoder,
    rows: Sequence[Sequence[int]],
    places: Sequence[Sequence[int]] | None = None,
    *,
    adapter: str | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Float[Tensor, "N K"], Float[Tensor, "T D"], Step, list[int]]:
    """The scores of the labels for these rows, one each, or for the tokens at `places` of each, end to end.

    With them the states that they come from, the call's `Step`, and where each row's own tokens begin.
    """
    ids, step, own = lay(network, rows, Fresh(), adapters=adapter, device=device)
    if places is None:
        at = [spot(network, begin, end) for begin, end in pairwise(step.rows.starts)]
    else:
        at = [begin + place for begin, some in zip(own, places, strict=True) for place in some]
    x = network.run(ids, step)
    return network.judge(x, step, torch.tensor(at, device=device)), x, step, own


@torch.inference_mode()
def scores(
    network: Decoder,
    rows: Sequence[Sequence[int]],
    places: Sequence[Sequence[int]] | None = None,
    *,
    adapter: str | None = None,
    device: torch.device | str = "cpu",
    batch: int = 32,
) -> list[Float[Tensor, "N K"]]:
    """The scores of the labels [1, K] of each row, or [N, K] of its chosen tokens; rows of like lengths are read together."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    found: list[Tensor] = [torch.empty(0)] * len(rows)
    for begin in range(0, len(order), batch):
        group = order[begin : begin + batch]
        some = None if places is None else [places[i] for i in group]
        said, *_ = judged(network, [rows[i] for i in group], some, adapter=adapter, device=device)
        sizes = [1] * len(group) if some is None else [len(p) for p in some]
        for i, part in zip(group, said.float().split(sizes), strict=True):
            found[i] = part
    return found


def probabilities(scores: Float[Tensor, "N K"], labels: Labels) -> Float[Tensor, "N K"]:
    """How likely each label is; for a regression the numbers themselves."""
    if labels.problem == "regression":
        return scores
    return scores.softmax(-1) if labels.problem == "single" else scores.sigmoid()
