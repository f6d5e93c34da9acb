"""LoRA in PEFT's layout, both ways, and what is refused."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from families import FAMILIES, LENGTHS, close, logits, rows, stirred

import groundup as gu
from groundup.adapting import add_adapter
from groundup.core.errors import GroundupError, UsageError
from groundup.nn.surgery import linears
from groundup.peft.lora import LoRA
from groundup.peft.method import shapes


def test_a_target_that_matches_nothing_is_refused_with_what_there_is(folders):
    with pytest.raises(UsageError, match=r"q_proj.*attn\.q"):
        gu.adapt(gu.load(folders("llama")), LoRA(targets="q_proj"))


def test_a_rank_above_every_matrix_and_a_strength_of_nothing_are_refused(folders):
    model = gu.load(folders("llama"))
    most = max(min(size) for name, size in shapes(model.network).items() if name.endswith(("attn.q", "attn.v")))
    gu.adapt(model, LoRA(rank=most))
    with pytest.raises(UsageError, match=f"rank {most + 1}: .* {most} at most"):
        gu.adapt(model, LoRA(rank=most + 1))
    for alpha in (0.0, float("nan")):
        with pytest.raises(UsageError, match="no effect"):
            LoRA(alpha=alpha)


def test_an_adapter_for_another_base_is_refused(folders, tmp_path):
    tuned = stirred(gu.adapt(gu.load(folders("llama")), LoRA()))
    gu.save(tuned, tmp_path / "adapter")
    base = gu.load(folders("llama"))
    other = replace(base, origin=replace(base.origin, identity="0" * 64))
    with pytest.raises(GroundupError, match="trained on"):
        add_adapter(other, tmp_path / "adapter")


def test_an_adapter_whose_effect_changed_is_refused(folders, tmp_path):
    tuned = stirred(gu.adapt(gu.load(folders("llama")), LoRA()))
    gu.save(tuned, tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": 3.0}))
    with pytest.raises(GroundupError, match="does not do here"):
        gu.load(folders("llama"), adapter=tmp_path / "adapter")


def test_the_probe_holds_in_another_number_format_and_still_sees_a_change(folders, tmp_path):
    tuned = stirred(gu.adapt(gu.load(folders("llama")), LoRA()))
    gu.save(tuned, tmp_path / "adapter")
    assert "takes effect" in gu.load(folders("llama"), adapter=tmp_path / "adapter", dtype="bfloat16").notes[-1]
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": 1.0}))
    with pytest.raises(GroundupError, match="does not do here"):
        gu.load(folders("llama"), adapter=tmp_path / "adapter", dtype="bfloat16")


def test_an_adapter_that_does_nothing_is_refused(folders, tmp_path):
    gu.save(gu.adapt(gu.load(folders("llama")), LoRA()), tmp_path / "adapter")
    with pytest.raises(GroundupError, match="changes nothing"):
        gu.load(folders("llama"), adapter=tmp_path / "adapter")


# --- PEFT ---------------------------------------------------------------------------------------------------------

MODULES = {
    "llama": (["q_proj", "v_proj", "down_proj"], "attn.q attn.v mlp.down"),
    "gpt2": (["c_attn", "mlp.c_proj"], "attn.q attn.v mlp.down"),
    "bloom": (["query_key_value", "dense_4h_to_h"], "attn.q attn.k mlp.down"),
    "t5": (["q", "v", "wo"], "attn.q cross.v mlp.down"),
    "mpt": (["Wqkv", "down_proj"], "attn.q attn.k attn.v mlp.down"),
    "gpt_neox": (["query_key_value", "dense_h_to_4h"], "attn.q attn.k attn.v mlp.up"),
    "openai-gpt": (["c_attn", "mlp.c_proj"], "attn.q attn.k attn.v mlp.down"),
    "mistral": (["q_proj", "k_proj", "o_proj"], "attn.q attn.k attn.o"),
    "gemma2": (["q_proj", "v_proj", "down_proj"], "attn.q attn.v mlp.down"),
    "qwen2": (["q_proj", "v_proj", "up_proj"], "attn.q attn.v mlp.up"),
    "roberta": (["query", "value"], "attn.q attn.v"),
    "qwen3": (["q_proj", "k_proj", "gate_proj"], "attn.q attn.k mlp.gate"),
}


def reference(folder: Path, family: str) -> Any:
    return getattr(transformers, FAMILIES[family][0]).from_pretrained(folder).eval()


def their_logits(model: Any, family: str) -> torch.Tensor:
    with torch.no_grad():
        if family == "t5":
            pairs_of = zip(rows().split(LENGTHS), rows(1).split(LENGTHS), strict=True)
            return torch.cat([model(input_ids=i[None], decoder_input_ids=j[None]).logits[0] for i, j in pairs_of])
        return torch.cat([model(input_ids=i[None]).logits[0] for i in rows().split(LENGTHS)])


@pytest.mark.parametrize("family", MODULES)
@pytest.mark.parametrize("option", [{}, {"use_rslora": True}, {"use_dora": True}], ids=["plain", "rslora", "dora"])
def test_an_adapter_of_peft_gives_its_logits_here(folders, family, option, tmp_path):
    config = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=MODULES[family][0], fan_in_fan_out=family in ("gpt2", "openai-gpt"),
        init_lora_weights=False, **option,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = peft.get_peft_model(reference(folders(family), family), config).eval()
    for name, parameter in theirs.named_parameters():
        if "magnitude" in name:  # DoRA's lengths start at the weight's own, which says nothing
            parameter.data *= torch.linspace(0.5, 1.5, parameter.numel())
    theirs.save_pretrained(tmp_path / "theirs")
    ours = gu.load(folders(family), adapter=tmp_path / "theirs")
    close(logits(ours), their_logits(theirs, family))
    assert not torch.allclose(logits(ours, None), logits(ours), atol=1e-3)
    # and out again, at its own rank where one A serves q, k and v
    gu.save(ours, tmp_path / "ours")
    again = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())
    assert again["rank_pattern"] == {}
    back = peft.PeftModel.from_pretrained(reference(folders(family), family), tmp_path / "ours").eval()
    close(their_logits(back, family), their_logits(theirs, family))


@pytest.mark.parametrize("family", MODULES)
@pytest.mark.parametrize("option", [{}, {"rank_stabilized": True}, {"dora": True}], ids=["plain", "rslora", "dora"])
def test_an_adapter_of_ours_gives_its_logits_in_peft(folders, family, option, tmp_path):
    targets = MODULES[family][1] if "dora" not in option else "all"
    method = LoRA(rank=3, alpha=5, targets=targets, **option)
    ours = stirred(gu.adapt(gu.load(folders(family)), method))
    gu.save(ours, tmp_path / "ours")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        theirs = peft.PeftModel.from_pretrained(reference(folders(family), family), tmp_path / "ours").eval()
    assert not [w for w in said if "missing" in str(w.message).lower()]
    close(their_logits(theirs, family), logits(ours), factor=2)


def test_settings_of_peft_that_change_the_mathematics_are_refused(folders, tmp_path):
    gu.save(stirred(gu.adapt(gu.load(folders("llama")), LoRA())), tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_bias": True}))
    with pytest.raises(UsageError, match="lora_bias"):
        gu.load(folders("llama"), adapter=tmp_path / "adapter")


def test_settings_of_a_newer_peft_are_named(folders, tmp_path):
    gu.save(stirred(gu.adapt(gu.load(folders("llama")), LoRA())), tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_tomorrow": 3}))
    with pytest.raises(UsageError, match="use_tomorrow"):
        gu.load(folders("llama"), adapter=tmp_path / "adapter")


def test_linears_are_named_alike_in_all_families(folders):
    for family in FAMILIES:
        names = list(linears(gu.load(folders(family)).network))
        assert any(n.endswith("attn.q") for n in names)
        assert any(".mlp." in n and n.endswith(".down") for n in names)  # an expert's, too


def test_an_adapter_with_its_base_beside_it_loads_in_peft_and_here(folders, tmp_path):
    ours = stirred(gu.adapt(gu.load(folders("llama")), LoRA(rank=3, targets="attn.q mlp.down")))
    gu.save(ours, tmp_path / "both", with_base=True)
    named = json.loads((tmp_path / "both" / "adapter_config.json").read_text())["base_model_name_or_path"]
    theirs = peft.PeftModel.from_pretrained(reference(Path(named), "llama"), tmp_path / "both").eval()
    close(their_logits(theirs, "llama"), logits(ours), factor=2)
    close(logits(gu.load(tmp_path / "both")), logits(ours), factor=2)
