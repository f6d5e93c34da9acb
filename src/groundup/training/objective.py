"""What training makes smaller: the surprise at the next token, where it is trained and nowhere else.

    rows                 s s s s a a A A      s s s s b B B B       small: given, capitals: trained
    what they share      s s s s                                    computed once a batch, as row 0
    what follows it              a a A A              b B B B
    predictions of                 ^ ^                ^ ^ ^         the hidden states that reach the head

The head sees only the tokens that predict a trained one, some at a time, and gives its gradient at once: scores for a
large vocabulary are never held for all tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.data.batches import shared_prefix
from groundup.inputs.tokenizer import Encoded
from groundup.nn.cache import Fresh, Shared
from groundup.nn.stack import Decoder
from groundup.nn.step import Step

CHUNK = 128  # predictions scored at once: 25 MB of scores for a vocabulary of 49,152
WORTH = 8  # shared tokens from which computing them once pays


def causal_loss(
    network: Decoder, rows: Sequence[Encoded], *, adapter: str | None = None, device: torch.device | str = "cpu"
) -> tuple[Float[Tensor, ""], int]:
    """The summed negative log-probability (in nats) of the trained tokens of these rows, and how many they are."""
    shared = shared_prefix([r.ids for r in rows], [r.trained for r in rows]) if len(rows) > 1 else 0
    shared = shared if shared >= WORTH else 0
    ids: list[int] = list(rows[0].ids[:shared])
    lengths = [shared] if shared else []
    at: list[int] = []
    wanted: list[int] = []
    for row in rows:
        start = len(ids) - shared  # so that token t of the row stands at start + t
        at += [start + t - 1 for t, trains in enumerate(row.trained) if trains and t]
        wanted += [row.ids[t] for t, trains in enumerate(row.trained) if trains and t]
        ids += row.ids[shared:]
        lengths.append(len(row.ids) - shared)
    step = Step.of(lengths, Shared() if shared else Fresh(), adapters=adapter, device=device)
    places = torch.tensor(at, device=device)
    assert network.head is not None
    x = network.run(torch.tensor(ids, device=device), step).index_select(0, places)
    return scored(network.head, x, torch.tensor(wanted, device=device), step.take(places)), len(wanted)


def scored(head: nn.Module, x: Float[Tensor, "N D"], wanted: Int[Tensor, " N"], step: Step) -> Float[Tensor, ""]:
    """The summed cross-entropy of `wanted` under the head's scores of x, a chunk at a time."""
    if not torch.is_grad_enabled():
        parts = range(0, len(wanted), CHUNK)
        return x.new_zeros((), dtype=torch.float32) + sum(_chunk(head, x, wanted, step, i) for i in parts)
    trained = [p for p in head.parameters() if p.requires_grad]
    return _Scored.apply(head, wanted, step, x, *trained)


def _chunk(head: nn.Module, x: Tensor, wanted: Tensor, step: Step, i: int) -> Tensor:
    index = torch.arange(i, min(i + CHUNK, len(wanted)), device=x.device)
    scores = head(x[i : i + CHUNK], step.take(index))
    return F.cross_entropy(
        scores if scores.dtype == torch.float64 else scores.float(), wanted[i : i + CHUNK], reduction="sum"
    )


def _surprise(scores: Float[Tensor, "C V"], wanted: Int[Tensor, " C"], room: Tensor) -> Float[Tensor, ""]:
    """The summed cross-entropy; leaves its gradient, softmax(scores) - onehot(wanted), in `room` [C, V]."""
    at = wanted[:, None]
    room.copy_(scores.detach())
    room.sub_(room.amax(-1, keepdim=True))
    picked = room.gather(1, at)
    total = room.exp_().sum(-1, keepdim=True)
    room.div_(total).scatter_add_(1, at, room.new_full((), -1.0).expand(at.shape))
    return (total.log() - picked).sum()


class _Scored(torch.autograd.Function):
    """Takes each chunk's gradient while its scores are there, so that they are made once and never kept."""

    @staticmethod
    def forward(ctx: Any, head: nn.Module, wanted: Tensor, step: Step, x: Tensor, *trained: Tensor) -> Tensor:
        exact = x.dtype if x.dtype == torch.float64 else torch.float32
        total = torch.zeros((), dtype=exact, device=x.device)
        room: Tensor | None = None  # one for all chunks: fresh memory of this size costs more than what is done in it
        dx = torch.empty_like(x)
        sums = [torch.zeros_like(p) for p in trained]
        for i in range(0, len(wanted), CHUNK):
            with torch.enable_grad():
                part = x.detach()[i : i + CHUNK].requires_grad_()
                index = torch.arange(i, i + len(part), device=x.device)
                scores = head(part, step.take(index))
            room = torch.empty(scores.shape, dtype=exact, device=x.device) if room is None else room[: len(scores)]
            total += _surprise(scores, wanted[i : i + CHUNK], room)
            grads = torch.autograd.grad(scores, [part, *trained], room.to(scores.dtype))
            dx[i : i + CHUNK] = grads[0]
            for held, grad in zip(sums, grads[1:], strict=True):
                held += grad
        ctx.save_for_backward(dx, *sums)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = grads
        return (None, None, None, *((t * g).to(t.dtype) for t in ctx.saved_tensors))
