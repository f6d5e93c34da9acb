"""What training makes smaller: the surprise at the next token, where it is trained and nowhere else.

The head sees only the tokens that predict a trained one, some at a time, and gives its gradient at once: scores for a
large vocabulary are never held for all tokens. How rows are laid is told by `inference.score.lay_trained`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.data.encode import EncodedRows, encode_all
from groundup.inference.score import lay_trained, nll_each
from groundup.inputs.tokenizer import Encoded
from groundup.nn.experts import evened, watched
from groundup.nn.stack import Decoder
from groundup.nn.step import Step
from groundup.peft.mixture import mixture

CHUNK = 128  # predictions scored at once: 25 MB of scores for a vocabulary of 49,152


@dataclass(frozen=True)
class Objective:
    """What a run makes smaller.

    encode(dataset, tokenizer, max_tokens)          rows as the loss takes them
    loss(network, rows, adapter=, device=)          the summed loss (nats) and over how many tokens it is summed
    count(row)                                      of how many tokens of a row that is
    """

    name: str
    encode: Callable[..., EncodedRows]
    loss: Callable[..., tuple[Float[Tensor, ""], int]]
    count: Callable[[Any], int]


def mean_loss(
    objective: Objective,
    network: nn.Module,
    rows: Sequence[Any],
    *,
    batch: int,
    adapter: str | None = None,
    device: torch.device | str = "cpu",
) -> float:
    """The mean loss over the trained tokens of these rows, without gradients, in batches of rows of like length."""
    order = sorted(rows, key=lambda row: len(row.ids))
    total, count = 0.0, 0
    with torch.no_grad():
        for i in range(0, len(order), batch):
            loss, n = objective.loss(network, order[i : i + batch], adapter=adapter, device=device)
            total, count = total + float(loss), count + n
    return total / count


def causal_loss(
    network: Decoder,
    rows: Sequence[Encoded],
    *,
    adapter: str | None = None,
    device: torch.device | str = "cpu",
    smoothing: float = 0.0,
) -> tuple[Float[Tensor, ""], int]:
    """The summed negative log-probability (in nats) of the trained tokens of these rows, and how many they are.

    smoothing  as in `scored`, in training alone
    """
    smoothing = smoothing if network.training else 0.0
    mixed = mixture(network, adapter)
    if mixed is not None:
        return _mixed_loss(network, rows, *mixed, device=device, smoothing=smoothing)
    call = lay_trained(network, rows, adapter=adapter, device=device)
    assert network.head is not None
    step, count = watched(network, call.step), len(call.wanted)
    x = network.run(call.ids, step).index_select(0, call.at)
    return scored(network.head, x, call.wanted, step.take(call.at), smoothing) + count * evened(network, step), count


def _mixed_loss(
    network: Decoder,
    rows: Sequence[Encoded],
    names: Sequence[str],
    weights: Float[Tensor, " K"],
    *,
    device: torch.device | str,
    smoothing: float,
) -> tuple[Float[Tensor, ""], int]:
    """-Σ log Σ_k exp(weights_k) p_k(row), a row's tokens together; adapters `names` give the p_k (arXiv 2104.06599, 3.3).

    Its gradient is Σ_k r_k ∇(-log p_k), r_k: prompt k's share in the row, so the shares are found first, without gradients.
    """
    each = [[s for s, _ in nll_each(network, rows, adapter=name, device=device)] for name in names]
    joint = weights[:, None] - torch.tensor(each, device=device)
    total = -joint.logsumexp(0).sum()
    count = sum(sum(row.trained[1:]) for row in rows)
    if not torch.is_grad_enabled():
        return total, count
    assert network.head is not None
    for name, share in zip(names, joint.detach().softmax(0), strict=True):
        call = lay_trained(network, rows, adapter=name, device=device)
        x = network.run(call.ids, call.step).index_select(0, call.at)
        shares = share[torch.tensor(call.owner, device=device)]
        part = scored(network.head, x, call.wanted, call.step.take(call.at), smoothing, shares)
        total = total + part - part.detach()
    return total, count


def scored(
    head: nn.Module,
    x: Float[Tensor, "N D"],
    wanted: Int[Tensor, " N"],
    step: Step,
    smoothing: float = 0.0,
    shares: Float[Tensor, " N"] | None = None,
) -> Float[Tensor, ""]:
    """The summed cross-entropy of `wanted` under the head's scores of x, a chunk at a time.

    smoothing  the share of a target that is spread evenly over the vocabulary (Szegedy et al., arXiv 1512.00567, 7)
    shares     what each counts in the sum, 1 without
    """
    shares = x.new_ones(len(wanted)) if shares is None else shares
    if not torch.is_grad_enabled():
        parts = range(0, len(wanted), CHUNK)
        found = (_chunk(head, x, wanted, step, smoothing, shares, i) for i in parts)
        return x.new_zeros((), dtype=torch.float32) + sum(found)
    trained = [p for p in head.parameters() if p.requires_grad]
    return _Scored.apply(head, wanted, step, smoothing, shares, x, *trained)


def _chunk(head: nn.Module, x: Tensor, wanted: Tensor, step: Step, smoothing: float, shares: Tensor, i: int) -> Tensor:
    index = torch.arange(i, min(i + CHUNK, len(wanted)), device=x.device)
    scores = head(x[i : i + CHUNK], step.take(index))
    scores = scores if scores.dtype == torch.float64 else scores.float()
    each = F.cross_entropy(scores, wanted[i : i + CHUNK], reduction="none", label_smoothing=smoothing)
    return (each * shares[i : i + CHUNK]).sum()


def _surprise(
    scores: Float[Tensor, "C V"], wanted: Int[Tensor, " C"], smoothing: float, shares: Float[Tensor, " C"], room: Tensor
) -> Float[Tensor, ""]:
    """The summed cross-entropy; leaves its gradient, share · (softmax(scores) - target), in `room` [C, V].

    The target is 1 at `wanted`; smoothed by e it is 1 - e there, and e / V more everywhere.
    """
    at = wanted[:, None]
    room.copy_(scores.detach())
    room.sub_(room.amax(-1, keepdim=True))
    picked = room.gather(1, at)
    if smoothing:
        picked = (1 - smoothing) * picked + smoothing * room.mean(-1, keepdim=True)
    total = room.exp_().sum(-1, keepdim=True)
    room.div_(total).scatter_add_(1, at, room.new_full((), smoothing - 1).expand(at.shape))
    if smoothing:
        room.sub_(smoothing / room.shape[1])
    room.mul_(shares[:, None])
    return ((total.log() - picked)[:, 0] * shares).sum()


class _Scored(torch.autograd.Function):
    """Takes each chunk's gradient while its scores are there, so that they are made once and never kept."""

    @staticmethod
    def forward(
        ctx: Any,
        head: nn.Module,
        wanted: Tensor,
        step: Step,
        smoothing: float,
        shares: Tensor,
        x: Tensor,
        *trained: Tensor,
    ) -> Tensor:
        exact = x.dtype if x.dtype == torch.float64 else torch.float32
        total = x.new_zeros((), dtype=exact)
        room: Tensor | None = None  # one for all chunks: fresh memory of this size costs more than what is done in it
        dx = torch.empty_like(x)
        sums = [torch.zeros_like(p) for p in trained]
        for i in range(0, len(wanted), CHUNK):
            with torch.enable_grad():
                part = x.detach()[i : i + CHUNK].requires_grad_()
                index = torch.arange(i, i + len(part), device=x.device)
                scores = head(part, step.take(index))
            room = torch.empty(scores.shape, dtype=exact, device=x.device) if room is None else room[: len(scores)]
            total += _surprise(scores, wanted[i : i + CHUNK], smoothing, shares[i : i + CHUNK], room)
            grads = torch.autograd.grad(scores, [part, *trained], room.to(scores.dtype))
            dx[i : i + CHUNK] = grads[0]
            for held, grad in zip(sums, grads[1:], strict=True):
                held += grad
        ctx.save_for_backward(dx, *sums)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = grads
        return (None, None, None, None, None, *((t * g).to(t.dtype) for t in ctx.saved_tensors))


CAUSAL = Objective("causal", encode_all, causal_loss, lambda row: sum(row.trained[1:]))
