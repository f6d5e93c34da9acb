"""Retention's three forms are one sum; its state is all that decoding keeps; a RetNet trains and decodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import groundup as gu
from groundup.core.errors import UsageError
from groundup.interpret import look
from groundup.nn import retention
from groundup.nn.cache import Fresh, Shared, Slots
from groundup.nn.positions import Rotary
from groundup.nn.retention import Retention, retain
from groundup.nn.step import Step

B, H, L, DK, DV = 2, 3, 17, 4, 5


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def given(length: int = L) -> list[Tensor]:
    return [torch.randn(B, H, length, d, dtype=torch.float64, requires_grad=True) for d in (DK, DK, DV)]


def decay() -> Tensor:
    return torch.tensor([0.5, 0.9, 0.99], dtype=torch.float64)


def direct(q: Tensor, k: Tensor, v: Tensor, stays: Tensor) -> Tensor:
    """The sum, number by number."""
    out = torch.zeros(B, H, q.shape[2], DV, dtype=torch.float64)
    for n in range(q.shape[2]):
        for m in range(n + 1):
            out[:, :, n] += stays[:, None] ** (n - m) * (q[:, :, n] * k[:, :, m]).sum(-1, keepdim=True) * v[:, :, m]
    return out


@pytest.mark.parametrize("size", [None, 1, 4, 17, 30], ids=["parallel", "recurrent", "4", "17", "30"])
def test_three_forms_are_one_sum(size: int | None) -> None:
    q, k, v = given()
    want = direct(*(t.detach() for t in (q, k, v)), decay())
    got, state = retain(q, k, v, decay(), size=size)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    toward, end = torch.randn_like(got), torch.randn_like(state)
    whole, last = retain(q, k, v, decay())
    torch.testing.assert_close(state, last, rtol=0, atol=1e-12)
    wanted = torch.autograd.grad([whole, last], [q, k, v], [toward, end])
    for a, b in zip(torch.autograd.grad([got, state], [q, k, v], [toward, end]), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)
    assert (retain(q, k, v, decay().flip(0), size=size)[0] - want).abs().max() > 0.1  # the control


def test_the_state_is_the_sum_so_far() -> None:
    q, k, v = (t.detach() for t in given())
    state = torch.zeros(B, H, DK, DV, dtype=torch.float64)
    for n in range(L):  # equation 6
        state = decay()[:, None, None] * state + k[:, :, n, :, None] * v[:, :, n, None]
    _, got = retain(q, k, v, decay(), size=5)
    torch.testing.assert_close(got, state, rtol=0, atol=1e-12)
    first, middle = retain(q[:, :, :9], k[:, :, :9], v[:, :, :9], decay())
    second, _ = retain(q[:, :, 9:], k[:, :, 9:], v[:, :, 9:], decay(), state=middle, size=3)
    torch.testing.assert_close(torch.cat((first, second), 2), direct(q, k, v, decay()), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [None, 1, 4])
def test_filler_behind_a_short_row_leaves_no_trace(size: int | None) -> None:
    q, k, v = (t.detach() for t in given())
    _, state = retain(q, k, v, decay(), lengths=[17, 6], size=size)
    for row, n in ((0, 17), (1, 6)):
        _, alone = retain(*(t[row : row + 1, :, :n] for t in (q, k, v)), decay())
        torch.testing.assert_close(state[row : row + 1], alone, rtol=0, atol=1e-12)


def test_a_state_in_half_precision_is_kept_in_float32() -> None:
    q, k, v = (t.detach() for t in given(300))
    state: Tensor | None = None
    for n in range(300):
        now = (t[:, :, n : n + 1].bfloat16() for t in (q, k, v))
        out, state = retain(*now, torch.tensor([0.5, 0.9, 0.999]), state=state)
    rounded = (t.bfloat16().double() for t in (q, k, v))
    want, _ = retain(*rounded, torch.tensor([0.5, 0.9, 0.999]).double())
    assert state is not None and state.dtype == torch.float32 and out.dtype == torch.bfloat16
    assert (out[:, :, 0].double() - want[:, :, -1]).abs().max() < 1e-2 * want[:, :, -1].abs().max()


# ------------------------------------------------------------------------------------------------ the part around it


def part(width: int = 12, heads: int = 2) -> Any:
    made = Retention(width, heads=heads, rotary=Rotary([1.0, 0.1, 0.01]), value_dim=5)
    made.path = "mix"
    for p in made.parameters():
        p.data = torch.randn_like(p, dtype=torch.float64) * 0.4
    return made


def test_the_part_is_the_papers_equations() -> None:
    one, x = part(), torch.randn(L, 12, dtype=torch.float64)
    q, k, v = ((x @ p.weight.dense().T).unflatten(1, (2, -1)) for p in (one.q, one.k, one.v))
    place = torch.arange(L, dtype=torch.float64)
    turned = []
    for t in (q, k):
        pairs = torch.view_as_complex(torch.stack((t[..., :3], t[..., 3:]), -1))
        waves = torch.polar(torch.ones(L, 3).double(), place[:, None] * torch.tensor([1.0, 0.1, 0.01]).double())
        pairs = torch.view_as_real(pairs * waves[:, None])
        turned.append(torch.cat((pairs[..., 0], pairs[..., 1]), -1))
    heads = []
    for h in range(2):
        stays = (1 - 2.0 ** (-5 - h)) ** (place[:, None] - place).clamp(min=0)
        stays = stays.tril() / stays.tril().sum(1, keepdim=True).sqrt()
        scores = turned[0][:, h] @ turned[1][:, h].T * 6**-0.5 * stays
        scores = scores / scores.sum(1, keepdim=True).abs().clamp(
            min=1
        )  # the third normalisation, which the next undoes
        heads.append(F.rms_norm(scores @ v[:, h], (5,), eps=1e-12))
    want = (F.silu(x @ one.gate.weight.dense().T) * torch.cat(heads, 1)) @ one.o.weight.dense().T
    one.eps = 1e-12
    torch.testing.assert_close(one(x, Step.of([L], Fresh())), want, rtol=0, atol=1e-7)


def test_rows_alone_together_cached_and_behind_a_shared_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "CHUNK", 4)
    one = part()
    with torch.no_grad():
        rows = [torch.randn(n, 12, dtype=torch.float64) for n in (13, 9, 1)]
        want = [one(r, Step.of([len(r)], Fresh())) for r in rows]
        together = one(torch.cat(rows), Step.of([13, 9, 1], Fresh())).split([13, 9, 1])
        cache, got = Slots(4, 0), [[], [], []]
        for call in ([5, 2, 1], [1, 1, 0], [7, 6, 0]):
            going = [i for i, n in enumerate(call) if n]
            begins = [sum(len(g) for g in some) for some in got]
            step = Step.of([call[i] for i in going], cache, slots=[3 - i for i in going])
            x = torch.cat([rows[i][begins[i] : begins[i] + call[i]] for i in going])
            first = one(x, step)
            torch.testing.assert_close(one(x, step), first, rtol=0, atol=0)  # repeating a call changes nothing
            for i, new in zip(going, first.split([call[i] for i in going]), strict=True):
                got[i].append(new)
            cache.advance(step)
        for a, b, c in zip(want, together, got, strict=True):
            torch.testing.assert_close(b, a, rtol=0, atol=1e-12)
            torch.testing.assert_close(torch.cat(c), a, rtol=0, atol=1e-12)
        assert cache.states["mix"].shape == (4, 2, 6, 5) and not cache.kept
        shared = torch.cat((rows[0][:5], rows[0][5:], rows[1]))
        out = one(shared, Step.of([5, 8, 9], Shared()))
        torch.testing.assert_close(out[:13], want[0], rtol=0, atol=1e-12)
        other = one(torch.cat((rows[0][:5], rows[1])), Step.of([14], Fresh()))
        torch.testing.assert_close(out[13:], other[5:], rtol=0, atol=1e-12)


def test_rows_move_copy_and_reorder_with_their_states() -> None:
    one, cache = part(), Slots(3, 0)
    with torch.no_grad():
        x = torch.randn(6, 12, dtype=torch.float64)
        step = Step.of([3, 2], cache)
        one(x[:5], step)
        cache.advance(step)
        cache.reorder([1, 0, 2])
        cache.copy(1, [2])
        cache.move(2, 0)
        step = Step.of([1], cache, slots=[0])
        want = one(x[[0, 1, 2, 5]], Step.of([4], Fresh()))[3:]
        torch.testing.assert_close(one(x[5:], step), want, rtol=0, atol=1e-12)
        cache.free(0)
        step = Step.of([1], cache, slots=[0])
        torch.testing.assert_close(one(x[5:], step), one(x[5:], Step.of([1], Fresh())), rtol=0, atol=0)
        with pytest.raises(UsageError, match="cannot take tokens back"):
            cache.rollback(1, 1)


SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_heads": 2, "intermediate_size": 32}


def test_a_retnet_learns_from_a_recipe_and_decodes(tmp_path: Path) -> None:
    rows = [{"prompt": f"say {w}", "completion": w} for w in ("one", "two", "three", "four")] * 8
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = {
        "family": "retnet", "model": SIZES, "tokenizer": {"kind": "word", "vocabulary": 40},
        "data": str(tmp_path / "rows.jsonl"), "steps": 60, "learning_rate": 1e-2, "precision": "float32",
    }  # fmt: skip
    gu.pretrain(recipe, out=tmp_path / "run")
    model = gu.load(tmp_path / "run")
    assert model.generate(["say two", "say four"], max_tokens=3, temperature=0) == ["two", "four"]
    assert model.generate("say four", max_tokens=3, temperature=0, beams=2) == "four"
    with pytest.raises(UsageError, match="leave out"):
        model.generate("say two say two say two say", max_tokens=8, temperature=0, lookup=3)
    for method in (gu.PrefixTuning(), gu.LlamaAdapter(length=2, layers=1)):
        with pytest.raises(UsageError, match="has no attention"):
            gu.adapt(model, method)
    with pytest.raises(UsageError, match="attention"):
        look.attention(model, "say two")
    tuned = gu.adapt(model, gu.LoRA(rank=2, targets="mix.q mix.o"))
    torch.testing.assert_close(tuned.logits("say two"), model.logits("say two"), rtol=0, atol=0)


def test_memory_of_decoding_does_not_grow() -> None:
    config = gu.models.retnet.Config(vocab_size=31, **SIZES)
    network, held = gu.build(config).network, []
    cache = Slots(1, 0)
    with torch.inference_mode():
        for _ in range(40):
            step = Step.of([1], cache)
            network(torch.tensor([7]), step)
            cache.advance(step)
            held.append(sum(t.nbytes for t in cache.states.values()))
    assert set(held) == {2 * 2 * 12 * 24 * 4} and not cache.kept  # layers, heads, Dk, Dv, bytes a number
