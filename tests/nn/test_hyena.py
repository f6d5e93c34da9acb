"""Hyena: the convolution is the direct sum, the operator the paper's recurrence; nothing sees the future."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import groundup as gu
from groundup.nn.cache import Fresh, Shared, Slots
from groundup.nn.hyena import SPEED, Hyena, convolve
from groundup.nn.step import Step

WIDTH, CONTEXT = 6, 23


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def part(order: int = 2) -> Any:
    made = Hyena(WIDTH, context=CONTEXT, order=order, inner=8, bands=2)
    made.path = "mix"
    for p in made.parameters():
        p.data = torch.randn_like(p, dtype=torch.float64) * 0.4
        p.requires_grad = True
    return made


@pytest.mark.parametrize("length", [1, 2, 7, 64])
def test_the_convolution_is_the_direct_sum(length: int) -> None:
    x, h = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((2, length, 3), (length, 3)))
    want = torch.stack([sum(h[m] * x[:, n - m] for m in range(n + 1)) for n in range(length)], 1)
    got = convolve(x, h)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    toward = torch.randn_like(want)
    pairs = zip(torch.autograd.grad(got, [x, h], toward), torch.autograd.grad(want, [x, h], toward), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)
    single = convolve(x.float(), h.float())
    assert single.dtype == torch.float32 and (single - want).abs().max() < 1e-5 * max(1, length)
    assert convolve(x.bfloat16(), h.bfloat16()).dtype == torch.bfloat16


def test_a_circular_convolution_would_leak() -> None:
    x, h = torch.randn(1, 5, 1).double(), torch.randn(5, 1).double()
    circular = torch.fft.irfft(torch.fft.rfft(x, dim=1) * torch.fft.rfft(h, dim=0), n=5, dim=1)
    assert (circular - convolve(x, h)).abs().max() > 0.1  # the control for the doubled length


@pytest.mark.parametrize("order", [2, 3, 4])
def test_the_operator_is_the_papers_recurrence(order: int) -> None:
    one, x = part(order), torch.randn(11, WIDTH, dtype=torch.float64)
    t = torch.linspace(0, 1, CONTEXT, dtype=torch.float64)[:11, None]
    bands, place = torch.tensor([1e-4, 1.0]).double(), torch.arange(11).double()[:, None]
    waves = torch.exp(-1j * bands * 2 * math.pi * place / CONTEXT)
    h = torch.cat((t, waves.real, waves.imag), 1)
    for layer in one.filter.layers:
        h = torch.sin(SPEED * one.filter.turns * F.linear(h, layer.weight, layer.bias))
    channels = (order - 1) * WIDTH
    rates = torch.linspace(-math.log(0.01) / 1.5, -math.log(0.01) / 0.3, channels, dtype=torch.float64)
    h = F.linear(h, one.filter.out.weight) * torch.exp(-t * rates)
    u = F.linear(x, one.proj.weight.dense(), one.proj.bias)
    u = F.conv1d(u.T[None], one.short[:, None], one.short_bias, padding=2, groups=u.shape[1])[0, :, :11].T
    *gates, v = u.split(WIDTH, 1)
    for i, gate in enumerate(reversed(gates[1:])):
        v, own, d = v * gate, h[:, i * WIDTH : (i + 1) * WIDTH], one.skip[i * WIDTH : (i + 1) * WIDTH]
        v = torch.stack([sum(own[m] * v[n - m] for m in range(n + 1)) for n in range(11)]) + d * v
    want = F.linear(gates[0] * v, one.o.weight.dense(), one.o.bias)
    torch.testing.assert_close(one(x, Step.of([11], Fresh())), want, rtol=0, atol=1e-6)


def test_gradients_come_from_the_past_alone() -> None:
    one, x = part(3), torch.randn(12, WIDTH, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(one(x, Step.of([12], Fresh()))[7].sum(), x)
    assert grad[8:].abs().max() < 1e-12 and (grad[:8].abs().amax(1) > 1e-6).all()


def test_rows_alone_together_cached_and_behind_a_shared_beginning() -> None:
    one = part(3)
    with torch.no_grad():
        rows = [torch.randn(n, WIDTH, dtype=torch.float64) for n in (13, 9, 1)]
        want = [one(r, Step.of([len(r)], Fresh())) for r in rows]
        together = one(torch.cat(rows), Step.of([13, 9, 1], Fresh())).split([13, 9, 1])
        cache, got = Slots(4, 13), [[], [], []]
        for call in ([5, 2, 1], [1, 1, 0], [7, 6, 0]):
            going = [i for i, n in enumerate(call) if n]
            begins = [sum(len(g) for g in some) for some in got]
            step = Step.of([call[i] for i in going], cache, slots=[3 - i for i in going])
            x = torch.cat([rows[i][begins[i] : begins[i] + call[i]] for i in going])
            for i, new in zip(going, one(x, step).split([call[i] for i in going]), strict=True):
                got[i].append(new)
            cache.advance(step)
        for a, b, c in zip(want, together, got, strict=True):
            torch.testing.assert_close(b, a, rtol=0, atol=1e-12)
            torch.testing.assert_close(torch.cat(c), a, rtol=0, atol=1e-12)
        out = one(torch.cat((rows[0][:5], rows[0][5:], rows[1])), Step.of([5, 8, 9], Shared()))
        torch.testing.assert_close(out[:13], want[0], rtol=0, atol=1e-12)
        other = one(torch.cat((rows[0][:5], rows[1])), Step.of([14], Fresh()))
        torch.testing.assert_close(out[13:], other[5:], rtol=0, atol=1e-12)


def test_a_hyena_learns_from_a_recipe_and_decodes(tmp_path: Path) -> None:
    rows = [{"prompt": f"say {w}", "completion": w} for w in ("one", "two", "three", "four")] * 8
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = {
        "family": "hyena", "tokenizer": {"kind": "word", "vocabulary": 40}, "data": str(tmp_path / "rows.jsonl"),
        "model": {"hidden_size": 24, "num_hidden_layers": 2, "intermediate_size": 32, "max_length": 32,
                  "filter_order": 8},
        "steps": 60, "learning_rate": 1e-2, "precision": "float32",
    }  # fmt: skip
    gu.pretrain(recipe, out=tmp_path / "run")
    model = gu.load(tmp_path / "run")
    assert model.generate(["say two", "say four"], max_tokens=3, temperature=0) == ["two", "four"]
    assert model.generate("say four", max_tokens=3, temperature=0, beams=2) == "four"
    assert model.generate("say two", max_tokens=3, temperature=0, lookup=3) == "two"  # inputs can be taken back
    tuned = gu.adapt(model, gu.LoRA(rank=2, targets="all"))
    torch.testing.assert_close(tuned.logits("say two"), model.logits("say two"), rtol=0, atol=0)


def test_an_order_below_two_is_refused() -> None:
    with pytest.raises(ValueError, match="order 1"):
        Hyena(WIDTH, context=CONTEXT, order=1)


def test_filters_of_half_precision_stay_close() -> None:
    one, x = part().float(), torch.randn(20, WIDTH)
    want: Tensor = one(x, Step.of([20], Fresh()))
    got = one(x.bfloat16(), Step.of([20], Fresh()))
    assert got.dtype == torch.bfloat16 and (got.float() - want).abs().max() < 0.1 * want.abs().max()
