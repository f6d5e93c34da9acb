"""Position tables against closed forms and the reference; masks against what the fused kernel lets through."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.bloom.modeling_bloom import build_alibi_tensor

from groundup.core.errors import UsageError
from groundup.interpret.tables import by_distance, mask, positions, sinusoidal
from groundup.nn.cache import Fresh
from groundup.nn.embed import Embed
from groundup.nn.positions import Sinusoidal
from groundup.nn.step import Step


@pytest.mark.parametrize("width", [16, 7, 1])
def test_sinusoidal_is_the_closed_form(width: int) -> None:
    table = sinusoidal(20, width)
    assert table.shape == (20, width) and table.abs().max() <= 1
    for p in range(20):
        for d in range(width):
            angle = p / 10000 ** (2 * (d // 2) / width)
            assert table[p, d].item() == pytest.approx(math.sin(angle) if d % 2 == 0 else math.cos(angle), abs=1e-6)
    assert table[0].tolist() == [float(d % 2) for d in range(width)]
    assert torch.equal(positions("sinusoidal", 20, width=width)[0].values, table)


def test_learned_positions_are_the_files(pair: Callable[[str], Any]) -> None:
    oracle, model = pair("gpt2-plain")
    (found,) = positions(model, 11)
    assert (found.kind, found.path) == ("learned", "embed.positions")
    assert torch.equal(found.values, oracle.transformer.wpe.weight[:11])
    with pytest.raises(UsageError, match="61 positions, not 62"):
        positions(model, 62)


def test_a_model_with_waves_shows_them(pair: Callable[[str], Any]) -> None:
    _, model = pair("gpt2-plain")
    network = deepcopy(model.network)
    network.embed = Embed(network.embed.tokens, positions=Sinusoidal(network.embed.tokens.width))
    (found,) = positions(replace(model, network=network), 70)
    assert (found.kind, found.path) == ("sinusoidal", "embed.positions")
    assert torch.equal(found.values, sinusoidal(70, network.embed.tokens.width))


@pytest.mark.parametrize("name", ["llama-grouped", "llama-yarn", "llama-llama3"])
def test_rotary_positions_are_the_references(name: str, pair: Callable[[str], Any]) -> None:
    oracle, model = pair(name)
    (found,) = positions(model, 13)
    cos, sin = oracle.model.rotary_emb(torch.zeros(1), torch.arange(13)[None])
    pairs = cos.shape[-1] // 2
    assert (found.kind, found.path) == ("rotary", "blocks.0.attn")
    torch.testing.assert_close(found.values, torch.cat((cos[0, :, :pairs], sin[0, :, :pairs]), 1), rtol=1e-5, atol=1e-5)


def test_rotary_by_its_formula() -> None:
    table = positions("rotary", 9, width=6, base=100.0)[0].values
    for p in range(9):
        for i in range(3):
            angle = p * 100.0 ** (-2 * i / 6)
            assert table[p, i].item() == pytest.approx(math.cos(angle), abs=1e-5)
            assert table[p, 3 + i].item() == pytest.approx(math.sin(angle), abs=1e-5)


@pytest.mark.parametrize("heads", [4, 6])
def test_alibi_is_the_references(heads: int, pair: Callable[[str], Any]) -> None:
    _, model = pair(f"bloom-{heads}-heads")
    theirs = build_alibi_tensor(torch.ones(1, 9), heads, torch.float32)  # [H, 1, L]: by the key alone
    for found in (positions(model, 9), positions("alibi", 9, heads=heads)):
        (table,) = found
        assert table.kind == "alibi"
        shift = table.values - theirs
        torch.testing.assert_close(shift, shift[..., :1].expand_as(shift))  # the same for all keys of a query
        assert (table.values.diagonal(dim1=1, dim2=2) == 0).all()


def test_distance_buckets_are_the_references(pair: Callable[[str], Any]) -> None:
    oracle, model = pair("t5-first")
    encoder, decoder = positions(model, 20)
    for table, stack in ((encoder, oracle.encoder), (decoder, oracle.decoder)):
        with torch.no_grad():
            want = stack.block[0].layer[0].SelfAttention.compute_bias(20, 20)[0]
        assert table.kind == "buckets"
        torch.testing.assert_close(table.values, want)
    along = by_distance(encoder.values)
    assert along.shape == (5, 39)
    for distance in (-19, -4, 0, 3, 19):
        query = max(0, -distance)
        assert torch.equal(along[:, 19 + distance], encoder.values[:, query, query + distance])
    assert torch.equal(by_distance(encoder.values, ahead=False), along[:, :20])


def test_what_has_no_positions_is_said() -> None:
    with pytest.raises(UsageError, match="'learnt'.*sinusoidal, rotary, alibi"):
        positions("learnt")
    with pytest.raises(UsageError, match="1 or more"):
        positions("alibi", 0)


# --- masks ------------------------------------------------------------------------------------------------------------


def by_the_fused_kernel(kind: str, rows: list[int], window: int | None) -> Tensor:
    """What the kernel of real calls lets through: with one-hot values, its output is the line of weights."""
    total = sum(rows)
    step = Step.of(rows, Fresh())
    same, which = torch.zeros(total, 1, 1), torch.eye(total)[:, None]
    out = step.cache.write("", same, which, step).attend(same, step, causal=kind != "both", scale=1.0, window=window)
    return out[:, 0] > 0


@pytest.mark.parametrize("rows", [[7], [1], [4, 4], [5, 1, 8]], ids=str)
@pytest.mark.parametrize("kind", ["causal", "both", "window"])
def test_masks_are_those_of_attention(kind: str, rows: list[int]) -> None:
    got = mask(kind, rows, window=3)
    assert torch.equal(got, by_the_fused_kernel(kind, rows, 3 if kind == "window" else None))
    row = torch.arange(len(rows)).repeat_interleave(torch.tensor(rows))
    place = torch.arange(sum(rows))
    want = row[:, None] == row
    if kind != "both":
        want &= place <= place[:, None]
    if kind == "window":
        want &= place > place[:, None] - 3
    assert torch.equal(got, want)


def test_masks_of_nonsense_are_refused() -> None:
    with pytest.raises(UsageError, match="'diagonal'.*causal, both, window"):
        mask("diagonal", 3)
    for rows in ([], [3, 0]):
        with pytest.raises(UsageError, match="1 or more"):
            mask("causal", rows)
