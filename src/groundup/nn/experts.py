"""Mixtures of experts: many MLPs of which a router chooses a few for each token, so that numbers grow and work does not.

    Experts   the `top` likeliest ones, weighted by their shares of probability (Mixtral: Jiang et al., arXiv 2401.04088, 2.1)
    Switch    the likeliest one alone, up to its capacity in a row (Fedus et al., arXiv 2101.03961, 2.1-2.2)

A router that learns by the loss alone may send everything to a few. What it scored is left in the step's `Taps.routes`, and
`balance` and `z_loss` are what training adds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.nn.linear import Linear
from groundup.nn.step import Step, Taps


class Experts(nn.Module):
    """Σ share_i · expert_i(x) over the `top` experts that the router finds likeliest; their shares sum to 1.

    make      one expert: a part of [T, width] -> [T, width]
    jitter    in training, what the router (and the experts) see is multiplied by numbers from 1 ± jitter
    balance   how much the balancing loss counts in training (`balance`), and z that of the size of scores (`z_loss`)

    Shapes: x [T, width] -> [T, width].
    """

    def __init__(
        self,
        width: int,
        make: Callable[[], nn.Module],
        *,
        count: int,
        top: int,
        jitter: float = 0.0,
        balance: float = 0.0,
        z: float = 0.0,
        bias: bool = False,
    ):
        super().__init__()
        if not 1 <= top <= count:
            raise ValueError(f"{top} of {count} experts cannot be chosen")
        self.router = Linear(width, count, bias=bias)
        self.experts = nn.ModuleList(make() for _ in range(count))
        self.top, self.jitter, self.balance, self.z = top, jitter, balance, z
        self.path = ""  # where it stands in the network; given once by the network

    def forward(self, x: Float[Tensor, "T D"], step: Step) -> Float[Tensor, "T D"]:
        given = self._jittered(x)
        logits = self._scores(given, step)
        shares, chosen = logits.softmax(-1).topk(self.top)
        shares = shares / shares.sum(-1, keepdim=True)
        return self._mixed(given, step, chosen, shares)

    def _jittered(self, x: Tensor) -> Tensor:
        if not (self.training and self.jitter):
            return x
        return x * torch.empty_like(x).uniform_(1 - self.jitter, 1 + self.jitter)

    def _scores(self, x: Float[Tensor, "T D"], step: Step) -> Float[Tensor, "T E"]:
        logits: Tensor = self.router(x, step)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        if step.taps is not None and step.taps.routes is not None:
            step.taps.routes[self.path] = logits
        return logits

    def _mixed(
        self, x: Float[Tensor, "T D"], step: Step, chosen: Int[Tensor, "T K"], shares: Float[Tensor, "T K"]
    ) -> Float[Tensor, "T D"]:
        """Each expert on its own tokens; one that nobody chose costs nothing. A choice of -1 is none."""
        out = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            token, place = (chosen == i).nonzero(as_tuple=True)
            if len(token):
                given = expert(x.index_select(0, token), step.take(token))
                out = out.index_add(0, token, (given * shares[token, place, None]).to(x.dtype))
        return out


class Switch(Experts):
    """p · expert(x) of the likeliest expert, p its probability. A token that comes too late gives zeros.

    capacity  tokens of one row that an expert takes in one call, the first ones; None: all

    The router computes in float32 (section 2.4). Shapes: x [T, width] -> [T, width].
    """

    def __init__(
        self,
        width: int,
        make: Callable[[], nn.Module],
        *,
        count: int,
        capacity: int | None,
        jitter: float = 0.0,
        balance: float = 0.0,
        z: float = 0.0,
        bias: bool = False,
    ):
        super().__init__(width, make, count=count, top=1, jitter=jitter, balance=balance, z=z, bias=bias)
        self.capacity = capacity

    def forward(self, x: Float[Tensor, "T D"], step: Step) -> Float[Tensor, "T D"]:
        share, chosen = self._scores(self._jittered(x), step).softmax(-1).max(-1, keepdim=True)
        if self.capacity is not None:
            chosen = chosen.masked_fill(turn(chosen[:, 0], len(self.experts), step)[:, None] > self.capacity, -1)
        return self._mixed(x, step, chosen, share.to(x.dtype))


def turn(chosen: Int[Tensor, " T"], count: int, step: Step) -> Int[Tensor, " T"]:
    """Which token of its row it is that its expert is given: 1, 2, 3 ..."""
    taken = F.one_hot(chosen, count).cumsum(0)  # [T, E] over all rows
    first = torch.tensor(step.rows.starts[:-1], device=chosen.device)[step.rows.row]
    before = torch.cat((taken.new_zeros(1, count), taken))[first]  # what earlier rows took
    return (taken - before).gather(1, chosen[:, None])[:, 0]


def balance(routes: Iterable[Float[Tensor, "T E"]], top: int) -> Float[Tensor, ""]:
    """E · Σ_i f_i P_i: f_i the share of tokens that choose expert i, P_i its mean probability (arXiv 2101.03961, eq. 4-6).

    1 where both are even (`top` of them: `top`). All layers and tokens of a call count as one group, as in Mixtral.
    """
    logits = torch.cat(list(routes))
    chances = logits.softmax(-1)
    chosen = F.one_hot(chances.topk(top).indices, chances.shape[1]).sum(1).to(chances.dtype)
    return chances.shape[1] * (chosen.mean(0) * chances.mean(0)).sum()


def z_loss(routes: Iterable[Float[Tensor, "T E"]]) -> Float[Tensor, ""]:
    """The mean of logsumexp(scores)², which keeps scores small (ST-MoE, arXiv 2202.08906, eq. 5)."""
    return torch.cat(list(routes)).logsumexp(-1).square().mean()


def watched(network: nn.Module, step: Step) -> Step:
    """The step, with room for what routers score where one of them learns."""
    learns = any(
        isinstance(p, Experts) and any(w.requires_grad for w in p.router.parameters()) for p in network.modules()
    )
    if not (network.training and learns):
        return step
    taps = Taps(routes={}) if step.taps is None else replace(step.taps, routes={})
    return replace(step, taps=taps)


def evened(network: nn.Module, step: Step) -> Float[Tensor, ""] | float:
    """What the routers of a step that `watched` gave add to the mean loss of a token; 0.0 where none learns."""
    routes: Mapping[str, Tensor] = {} if step.taps is None or step.taps.routes is None else step.taps.routes
    parts = [part for part in network.modules() if isinstance(part, Experts) and part.path in routes]
    if not parts:
        return 0.0
    scores, one = [routes[part.path] for part in parts], parts[0]
    return one.balance * balance(scores, one.top) + one.z * z_loss(scores)
