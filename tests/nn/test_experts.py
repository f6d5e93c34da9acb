"""Routers: what they add to the loss against the reference's functions, capacity row by row, and what training does with it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func as mixtral_balance
from transformers.models.switch_transformers.modeling_switch_transformers import (
    load_balancing_loss_func,
    router_z_loss_func,
)

from groundup.nn.cache import Fresh
from groundup.nn.experts import Experts, Switch, balance, evened, turn, watched, z_loss
from groundup.nn.linear import Linear
from groundup.nn.mlp import MLP
from groundup.nn.step import Step, Taps


def filled(part: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in part.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5
    return part.eval()


def scores(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("top", [1, 2, 5])
def test_the_balancing_loss_is_mixtrals(top):
    layers = [scores(13, 5, seed=i) for i in range(3)]
    assert torch.allclose(balance(layers, top), mixtral_balance(tuple(layers), 5, top), rtol=1e-6)


def test_the_losses_of_one_row_are_switchs():
    logits = scores(17, 4)
    chances = logits.softmax(-1)
    assert torch.allclose(balance([logits], 1), load_balancing_loss_func(chances[None], chances.argmax(-1)[None]))
    assert torch.allclose(z_loss([logits]), router_z_loss_func(logits[None]))


def test_even_routing_costs_one_and_a_collapsed_one_costs_all_experts():
    even = 30.0 * torch.eye(4).repeat(8, 1)  # each token is sure, and each expert has as many
    assert balance([even], 1).item() == pytest.approx(1.0, abs=1e-5)
    assert balance([torch.tensor([[30.0, 0, 0, 0]]).repeat(8, 1)], 1).item() == pytest.approx(4.0, abs=1e-5)


def test_a_token_has_its_turn_in_its_own_row():
    step = Step.of([3, 0, 4], Fresh())
    chosen = torch.tensor([1, 1, 0, 1, 0, 1, 1])
    assert turn(chosen, 2, step).tolist() == [1, 2, 1, 1, 1, 2, 3]


def test_a_late_token_gives_zeros_and_others_do_not_notice():
    part = filled(Switch(6, lambda: MLP(6, 9, act="relu", bias=False), count=2, capacity=2))
    free = filled(Switch(6, lambda: MLP(6, 9, act="relu", bias=False), count=2, capacity=None))
    x, step = scores(9, 6), Step.of([5, 4], Fresh())
    chosen = part.router(x, step).argmax(-1)
    late = turn(chosen, 2, step) > 2
    assert late.any() and not late.all()
    out, whole = part(x, step), free(x, step)
    assert (out[late] == 0).all() and torch.equal(out[~late], whole[~late])
    assert (whole[late] != 0).any()


def test_shares_are_of_the_chosen_alone():
    part = filled(Experts(6, lambda: MLP(6, 9, act="relu", bias=False), count=4, top=2))
    x, step = scores(5, 6), Step.of([5], Fresh())
    shares, chosen = part.router(x, step).softmax(-1).topk(2)
    for t in range(5):
        one = Step.of([1], Fresh())
        mixed = sum(s * part.experts[int(e)](x[t : t + 1], one) for s, e in zip(shares[t], chosen[t], strict=True))
        assert torch.allclose(part(x, step)[t], (mixed / shares[t].sum())[0], atol=1e-5)


def test_only_a_router_that_learns_is_evened():
    part = filled(Experts(6, lambda: MLP(6, 9, act="relu", bias=False), count=3, top=1, balance=0.5, z=0.1))
    part.path = "mlp"
    net = nn.ModuleDict({"mlp": part})
    x, step = scores(7, 6), Step.of([7], Fresh())
    net.train()
    assert watched(net, step) is step and evened(net, step) == 0.0  # its numbers are frozen
    part.router.weight.values.requires_grad_()
    assert watched(net.eval(), step) is step
    seen = watched(net.train(), step)
    part(x, seen)
    logits = part.router(x, step)
    assert torch.allclose(evened(net, seen), 0.5 * balance([logits], 1) + 0.1 * z_loss([logits]))
    evened(net, seen).backward()
    assert part.router.weight.values.grad.abs().sum() > 0


def test_the_balancing_loss_evens_a_collapsed_router():
    """Descent on the loss alone; without it (the control) the collapse stays."""
    loads = {}
    for weight in (0.0, 1.0):
        router = Linear(6, 4, bias=False)
        router.weight.values.data = scores(4, 6) * 0.1
        router.weight.values.data[0] += 2.0
        router.weight.values.requires_grad_()
        x, step = scores(64, 6, seed=3).abs(), Step.of([64], Fresh())
        descent = torch.optim.Adam([router.weight.values], lr=0.05)
        for _ in range(150):
            descent.zero_grad()
            (weight * balance([router(x, step)], 1)).backward()
            descent.step()
        loads[weight] = torch.bincount(router(x, step).argmax(-1), minlength=4).max().item() / 64
    assert loads[0.0] == 1.0 and loads[1.0] < 0.5


def test_jitter_is_of_training_alone():
    part = filled(Switch(6, lambda: MLP(6, 9, act="relu", bias=False), count=3, capacity=None, jitter=0.3))
    x = scores(4, 6)

    def routes() -> torch.Tensor:
        step = Step.of([4], Fresh(), taps=Taps(routes={}))
        part(x, step)
        return step.taps.routes[part.path]

    assert torch.equal(routes(), routes())
    part.train()
    assert not torch.equal(routes(), routes())
