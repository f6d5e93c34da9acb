"""Positions against the reference's own functions: rotary scalings, ALiBi's slopes, T5's buckets."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.bloom.modeling_bloom import _get_alibi_slopes
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb
from transformers.models.t5.modeling_t5 import T5Attention

from groundup.core.errors import UsageError
from groundup.models import llama, llama_like
from groundup.nn.cache import Fresh, Slots
from groundup.nn.positions import Alibi, RelativeBias, Rotary, frequencies, yarn_temperature
from groundup.nn.step import Step

HEAD = 26  # 13 pairs


def both(rope: dict[str, Any], context: int = 96) -> tuple[Rotary, transformers.LlamaConfig]:
    sizes = {"hidden_size": 3 * HEAD, "num_attention_heads": 3, "max_position_embeddings": context}
    ours = llama.Config.from_public({"model_type": "llama", "rope_parameters": rope} | sizes)
    return llama_like.rotary(ours.rope_parameters, HEAD, context), transformers.LlamaConfig(
        rope_parameters=dict(rope), **sizes
    )


LONG = {"rope_theta": 500.0, "original_max_position_embeddings": 24}
DEFAULT = {"rope_type": "default", "rope_theta": 300.0}
SCALED = [
    {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0} | LONG,
    {"rope_type": "llama3", "factor": 3.0, "low_freq_factor": 0.5, "high_freq_factor": 2.0} | LONG,
    {"rope_type": "yarn", "factor": 4.0} | LONG,
    {"rope_type": "yarn", "factor": 4.0, "beta_fast": 12.0, "beta_slow": 0.5, "attention_factor": 1.7} | LONG,
    {"rope_type": "yarn", "factor": 4.0, "truncate": False} | LONG,
]


@pytest.mark.parametrize("rope", SCALED, ids=lambda r: f"{r['rope_type']}-{len(r)}-{r['factor']}")
def test_scaled_frequencies_are_the_references(rope: dict[str, Any]) -> None:
    ours, config = both(rope)
    freqs, factor = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config)
    torch.testing.assert_close(torch.tensor(ours.frequencies), freqs, rtol=1e-6, atol=0)
    assert ours.factor == pytest.approx(factor, rel=1e-12)
    plain = torch.tensor(frequencies(HEAD, rope["rope_theta"]))
    assert not torch.allclose(torch.tensor(ours.frequencies), plain, rtol=1e-3), "this case scales nothing"


def test_yarns_temperature() -> None:
    assert yarn_temperature(1.0) == yarn_temperature(0.5) == 1.0
    assert yarn_temperature(math.e) == pytest.approx(1.1)


@pytest.mark.parametrize("rope", [DEFAULT, *SCALED[:4:3]], ids=lambda r: r["rope_type"])
def test_turning_is_the_references(rope: dict[str, Any]) -> None:
    ours, config = both(rope)
    x = torch.randn(9, 4, HEAD, generator=torch.Generator().manual_seed(0))
    cache = Slots(2, 32)
    cache.length[1] = 17  # the first of these tokens is the row's eighteenth
    step = Step.of([9], cache, slots=[1])
    cos, sin = LlamaRotaryEmbedding(config)(x, torch.arange(17, 26)[None])
    want, _ = apply_rotary_pos_emb(x.transpose(0, 1)[None], x.transpose(0, 1)[None], cos, sin)
    torch.testing.assert_close(ours(x, step), want[0].transpose(0, 1), rtol=0, atol=1e-5)


def test_turning_keeps_lengths_and_sees_distances_alone() -> None:
    turning = Rotary(frequencies(HEAD, 300.0))
    g = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, HEAD, generator=g, dtype=torch.float64) for _ in "qk")

    def at(x: torch.Tensor, place: int) -> torch.Tensor:
        cache = Slots(1, 99)
        cache.length[0] = place
        return turning(x, Step.of([1], cache))

    torch.testing.assert_close(at(q, 31).norm(), q.norm())
    near, far = (at(q, a) * at(k, b) for a, b in ((7, 3), (57, 53)))
    torch.testing.assert_close(near.sum(), far.sum())
    assert not torch.allclose(near.sum(), (at(q, 8) * at(k, 3)).sum())


def test_only_the_first_pairs_turn() -> None:
    x = torch.randn(5, 2, HEAD, generator=torch.Generator().manual_seed(0))
    turned = Rotary(frequencies(10, 300.0))(x, Step.of([5], Fresh()))
    assert torch.equal(turned[..., 10:], x[..., 10:]) and not torch.equal(turned[1:, :, :10], x[1:, :, :10])


def test_unknown_scalings_and_settings_are_refused() -> None:
    with pytest.raises(UsageError, match="dynamic"):
        both({"rope_type": "dynamic", "rope_theta": 1.0, "factor": 2.0})
    with pytest.raises(UsageError, match="mscale"):
        both({"rope_type": "yarn", "factor": 4.0, "mscale": 0.7} | LONG)


@pytest.mark.parametrize("heads", [1, 2, 3, 5, 6, 8, 11, 12, 16, 20, 31, 32, 33, 112])
def test_slopes_are_the_references(heads: int) -> None:
    want = _get_alibi_slopes(heads, torch.device("cpu"))
    torch.testing.assert_close(torch.tensor(Alibi(heads).slopes), want, rtol=1e-6, atol=0)


def test_alibi_falls_with_the_distance() -> None:
    alibi = Alibi(3)
    got = alibi(torch.tensor([[4, 5], [9, 10]]), torch.arange(7)[None])
    assert got.shape == (2, 3, 2, 7)
    assert got[1, 2, 1, 4].item() == pytest.approx(-alibi.slopes[2] * 6)
    assert got[0, 1, 0, 4] == 0


@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize(("buckets", "furthest"), [(32, 128), (10, 13), (8, 20), (33, 100)])
def test_buckets_are_the_references(both_ways: bool, buckets: int, furthest: int) -> None:
    distances = torch.arange(-300, 301)
    ours = RelativeBias(3, buckets=buckets, furthest=furthest, both_ways=both_ways)
    want = T5Attention._relative_position_bucket(distances, both_ways, buckets, furthest)
    assert torch.equal(ours.bucket(distances), want)
    assert want.max() > buckets // 2


@pytest.mark.parametrize("both_ways", [True, False])
def test_the_table_is_looked_up_by_query_and_key(both_ways: bool) -> None:
    config = transformers.T5Config(num_heads=3, relative_attention_num_buckets=10, relative_attention_max_distance=13)
    config.is_decoder = not both_ways
    theirs = T5Attention(config, has_relative_attention_bias=True, layer_idx=0)
    ours = RelativeBias(3, buckets=10, furthest=13, both_ways=both_ways)
    ours.table.weight.values = nn.Parameter(torch.randn(10, 3, generator=torch.Generator().manual_seed(0)))
    theirs.relative_attention_bias.weight = ours.table.weight.values
    got = ours(torch.arange(11, 16)[None], torch.arange(20)[None])
    assert torch.equal(got, theirs.compute_bias(5, 20, past_seen_tokens=11))
