"""Fewer key heads: the reference library reads what is saved, and gives the logits of heads pooled by hand there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import groundup as gu
from groundup.cli.main import main
from groundup.core.errors import UsageError
from groundup.nn.cache import Slots
from groundup.nn.step import Step
from groundup.training.convert import kept_per_token

HEADS, HEAD, WIDTH = 6, 10, 42
IDS = torch.randint(97, (1, 19), generator=torch.Generator().manual_seed(1))


def reference(folder: Path, family: str = "llama", **more: Any) -> Any:
    sizes = {"vocab_size": 97, "hidden_size": WIDTH, "num_hidden_layers": 2, "intermediate_size": 37, "head_dim": HEAD}
    sizes |= {"num_attention_heads": HEADS, "num_key_value_heads": HEADS, "max_position_embeddings": 64}
    config = transformers.AutoConfig.for_model(
        family, bos_token_id=1, eos_token_id=2, pad_token_id=0, **{**sizes, **more}
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    draw = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draw) * 0.3 + (parameter.ndim == 1)
    model.save_pretrained(folder)
    return model


def pooled_there(model: Any, groups: int, how: str) -> Any:
    """The reference with its own projections pooled as [heads, head, width], in its own layout."""
    config = transformers.AutoConfig.for_model(**{**model.config.to_dict(), "num_key_value_heads": groups})
    other = transformers.AutoModelForCausalLM.from_config(config).eval()
    held = model.state_dict()
    for name, tensor in held.items():
        if ".k_proj." in name or ".v_proj." in name:
            heads = tensor.view(groups, HEADS // groups, HEAD, *tensor.shape[1:])
            held[name] = (heads.mean(1) if how == "mean" else heads[:, 0]).reshape(groups * HEAD, *tensor.shape[1:])
    other.load_state_dict(held)
    return other


@torch.no_grad()
def logits(model: Any) -> Tensor:
    if isinstance(model, gu.Model):
        return model.network(IDS[0], model.step([IDS.shape[1]]))
    return model(IDS).logits[0]


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("pool", ["mean", "first"])
def test_the_reference_pooled_by_hand_has_the_same_logits(family: str, groups: int, pool: Any, tmp_path: Path) -> None:
    theirs = reference(tmp_path / "base", family, attention_bias=True)
    lm = gu.load(tmp_path / "base")
    before = logits(lm)
    made = gu.convert(lm, kv_heads=groups, pool=pool)
    want = logits(pooled_there(theirs, groups, pool))
    near = 1e-5 * max(1.0, float(want.abs().max()))
    assert (logits(made) - want).abs().max() <= near
    assert (want - logits(theirs)).abs().max() > 1e-2  # the control: pooling does change something
    assert torch.equal(logits(lm), before)  # and not what was given
    gu.save(made, tmp_path / "made")
    assert json.loads((tmp_path / "made" / "config.json").read_text())["num_key_value_heads"] == groups
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "made").eval()
    assert (logits(again) - want).abs().max() <= near
    assert torch.equal(logits(gu.load(tmp_path / "made")), logits(made))


def test_as_many_groups_as_heads_is_the_model_itself(tmp_path: Path) -> None:
    reference(tmp_path)
    lm = gu.load(tmp_path)
    for pool in ("mean", "first"):
        assert torch.equal(logits(gu.convert(lm, kv_heads=HEADS, pool=pool)), logits(lm))
    again = gu.convert(gu.convert(lm, kv_heads=3), kv_heads=1)  # a mean of means of equal groups
    torch.testing.assert_close(logits(again), logits(gu.convert(lm, kv_heads=1)), rtol=0, atol=1e-4)


def test_random_heads_are_those_of_the_seed(tmp_path: Path) -> None:
    reference(tmp_path)
    lm = gu.load(tmp_path)
    one, same, other = (gu.convert(lm, kv_heads=2, pool="random", seed=s) for s in (1, 1, 2))
    assert torch.equal(logits(one), logits(same)) and not torch.allclose(logits(one), logits(other), atol=1e-2)


def test_the_cache_shrinks_by_exactly_heads_over_groups(tmp_path: Path) -> None:
    reference(tmp_path)
    lm = gu.load(tmp_path)
    for groups in (1, 2, 3, 6):
        made = gu.convert(lm, kv_heads=groups)
        cache = Slots(2, 19)
        step = Step.of([19, 7], cache)
        with torch.no_grad():
            made.network(torch.cat((IDS[0], IDS[0, :7])), step)
        held = sum(t.nbytes for pair in cache.kept.values() for t in pair)
        assert held == 2 * 19 * kept_per_token(made.network) == 2 * 19 * kept_per_token(lm.network) * groups // HEADS


def test_what_cannot_be_is_said(tmp_path: Path, capsys: Any) -> None:
    reference(tmp_path / "base")
    lm = gu.load(tmp_path / "base")
    with pytest.raises(UsageError, match="6 key heads: they make 1, 2, 3, 6 groups, not 4"):
        gu.convert(lm, kv_heads=4)
    with pytest.raises(UsageError, match="pool 'median': there are mean"):
        gu.convert(lm, kv_heads=2, pool="median")
    with pytest.raises(UsageError, match="merge first"):
        gu.convert(gu.adapt(lm, gu.LoRA(rank=2)), kv_heads=2)
    with pytest.raises(UsageError, match="before it was quantized"):
        gu.convert(gu.quantize(lm, "int8"), kv_heads=2)
    config = gu.models.gpt2.Config(vocab_size=97, n_embd=12, n_layer=1, n_head=2, n_positions=32)
    with pytest.raises(UsageError, match=r"a gpt2 has a key head for each head; .*llama"):
        gu.convert(gu.build(config), kv_heads=1)
    assert main(["convert", str(tmp_path / "base"), "--kv-heads", "4", "--out", str(tmp_path / "x")]) == 2
    assert "not 4" in capsys.readouterr().err and not (tmp_path / "x").exists()
    assert main(["convert", str(tmp_path / "base"), "--kv-heads", "2", "--out", str(tmp_path / "x"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kv_heads"] == 2
    assert gu.load(tmp_path / "x").config.num_key_value_heads == 2
