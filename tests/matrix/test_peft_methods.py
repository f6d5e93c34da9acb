"""IA³, prompts, prefixes and LLaMA-Adapter against PEFT, both ways."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from families import FAMILIES, LENGTHS, close, logits, rows, stirred

import groundup as gu
from groundup.core.errors import GroundupError, UsageError
from groundup.peft.ia3 import IA3
from groundup.peft.llama_adapter import LlamaAdapter
from groundup.peft.prefix import PrefixTuning
from groundup.peft.prompt import Prompt

IA3_MODULES = {
    "llama": (["k_proj", "v_proj", "down_proj"], ["down_proj"]),
    "gpt2": (["c_attn", "mlp.c_proj"], ["mlp.c_proj"]),
    "bloom": (["query_key_value", "mlp.dense_4h_to_h"], ["mlp.dense_4h_to_h"]),
    "mistral": (["k_proj", "v_proj", "down_proj"], ["down_proj"]),
    "qwen3": (["k_proj", "v_proj", "down_proj"], ["down_proj"]),
    "t5": (["k", "v", "wo"], ["wo"]),
}
DECODERS = ["llama", "gpt2", "bloom", "gpt_neox", "qwen3", "mistral", "gemma2"]


def reference(folder: Path, family: str) -> Any:
    return getattr(transformers, FAMILIES[family][0]).from_pretrained(folder).eval()


def their_logits(model: Any, family: str) -> torch.Tensor:
    """Row by row, without what a prompt puts in front."""
    found = []
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # position ids and caches that PEFT warns about on every call
        for i, j in zip(rows().split(LENGTHS), rows(1).split(LENGTHS), strict=True):
            mask = torch.ones(1, len(i), dtype=torch.long)
            if family == "t5":
                out = model(input_ids=i[None], attention_mask=mask, decoder_input_ids=j[None]).logits[0]
                found.append(out[-len(j) :])
            else:
                found.append(model(input_ids=i[None], attention_mask=mask).logits[0][-len(i) :])
    return torch.cat(found)


def made_by_peft(folders, family: str, config: Any, out: Path) -> Any:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(reference(folders(family), family), config).eval()
        for name, parameter in theirs.named_parameters():
            if any(part in name for part in ("ia3_l", "prompt_encoder", "adaption")):
                parameter.data = parameter.data + torch.randn(parameter.shape) * 0.3
        theirs.save_pretrained(out)
    return theirs


def back_in_peft(folders, family: str, folder: Path) -> Any:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        theirs = peft.PeftModel.from_pretrained(reference(folders(family), family), folder).eval()
    odd = [
        str(w.message) for w in said if "missing" in str(w.message).lower() or "unexpected" in str(w.message).lower()
    ]
    assert not odd
    return theirs


def both_ways(folders, family: str, config: Any, tmp_path: Path) -> None:
    theirs = made_by_peft(folders, family, config, tmp_path / "theirs")
    ours = gu.load(folders(family), adapter=tmp_path / "theirs")
    close(logits(ours), their_logits(theirs, family), factor=2)
    assert (logits(ours, None) - logits(ours)).abs().max() > 1e-3
    gu.save(ours, tmp_path / "ours")
    close(their_logits(back_in_peft(folders, family, tmp_path / "ours"), family), logits(ours), factor=2)


@pytest.mark.parametrize("family", IA3_MODULES)
def test_ia3(folders, family, tmp_path):
    modules, feed = IA3_MODULES[family]
    task = "SEQ_2_SEQ_LM" if family == "t5" else "CAUSAL_LM"
    config = peft.IA3Config(
        target_modules=modules, feedforward_modules=feed, task_type=task, fan_in_fan_out=family == "gpt2"
    )
    both_ways(folders, family, config, tmp_path)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
def test_ia3_of_ours_in_peft(folders, family, tmp_path):
    ours = stirred(gu.adapt(gu.load(folders(family)), IA3()))
    gu.save(ours, tmp_path / "ours")
    close(their_logits(back_in_peft(folders, family, tmp_path / "ours"), family), logits(ours), factor=2)


@pytest.mark.parametrize("family", [*DECODERS, "t5"])
def test_prompts(folders, family, tmp_path):
    task = "SEQ_2_SEQ_LM" if family == "t5" else "CAUSAL_LM"
    config = peft.PromptTuningConfig(num_virtual_tokens=4, task_type=task)
    theirs = made_by_peft(folders, family, config, tmp_path / "theirs")
    ours = gu.load(folders(family), adapter=tmp_path / "theirs")
    close(logits(ours), their_logits(theirs, family), factor=2)
    if family != "t5":  # PEFT keeps a second half for T5's decoder, which nothing reads
        gu.save(ours, tmp_path / "ours")
        close(their_logits(back_in_peft(folders, family, tmp_path / "ours"), family), logits(ours), factor=2)


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("projected", [False, True])
def test_prefixes(folders, family, projected, tmp_path):
    config = peft.PrefixTuningConfig(
        num_virtual_tokens=4, task_type="CAUSAL_LM", prefix_projection=projected, encoder_hidden_size=7
    )
    theirs = made_by_peft(folders, family, config, tmp_path / "theirs")
    ours = gu.load(folders(family), adapter=tmp_path / "theirs")
    close(logits(ours), their_logits(theirs, family), factor=2)
    gu.save(ours, tmp_path / "ours")
    close(their_logits(back_in_peft(folders, family, tmp_path / "ours"), family), logits(ours), factor=2)


def test_a_prefix_of_ours_by_an_mlp_is_folded_and_peft_says_the_same(folders, tmp_path):
    ours = stirred(gu.adapt(gu.load(folders("llama")), PrefixTuning(length=3, hidden=5)))
    gu.save(ours, tmp_path / "ours")
    close(their_logits(back_in_peft(folders, "llama", tmp_path / "ours"), "llama"), logits(ours), factor=2)


def test_llama_adapter(folders, tmp_path):
    config = peft.AdaptionPromptConfig(adapter_len=3, adapter_layers=1, task_type="CAUSAL_LM")
    both_ways(folders, "llama", config, tmp_path)


def test_llama_adapter_of_other_families_is_not_passed_off_as_pefts(folders, tmp_path):
    ours = stirred(gu.adapt(gu.load(folders("gpt2")), LlamaAdapter(length=3, layers=1)))
    gu.save(ours, tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / "adapter_config.json").read_text())["peft_type"].startswith("GROUNDUP")
    config = peft.AdaptionPromptConfig(adapter_len=3, adapter_layers=1, task_type="CAUSAL_LM")
    made_by_peft(folders, "gpt2", config, tmp_path / "theirs")
    with pytest.raises((UsageError, GroundupError), match="not supported"):
        gu.load(folders("gpt2"), adapter=tmp_path / "theirs")


def test_a_prompt_starts_as_words_of_the_vocabulary_or_of_a_text(folders):
    base = gu.load(folders("llama"))
    table = base.network.embed.tokens.weight.dense()
    drawn = gu.adapt(base, Prompt(length=4, init="vocabulary"))
    vectors = drawn.network.adapters["mine"].vectors()
    assert all(any(torch.equal(v, row) for row in table) for v in vectors)
    network = Prompt(length=5, init="text", text="two words").add(base.network, "mine", encode=lambda text: [7, 9])
    assert torch.equal(network.adapters["mine"].vectors(), table[[7, 9, 7, 9, 7]])


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (lambda: Prompt(length=0), "at least 1"),
        (lambda: Prompt(init="text"), "together"),
        (lambda: LlamaAdapter(length=0), "at least 1"),
        (lambda: PrefixTuning(length=0), "at least 1"),
    ],
)
def test_settings_that_make_no_sense(method, says):
    with pytest.raises(UsageError, match=says):
        method()


def test_adapters_of_another_base_are_refused(folders, tmp_path):
    for number, method in enumerate((IA3(), Prompt(length=3), PrefixTuning(length=3), LlamaAdapter(layers=1))):
        gu.save(stirred(gu.adapt(gu.load(folders("llama")), method)), tmp_path / str(number))
        with pytest.raises((UsageError, GroundupError)):
            gu.load(folders("gpt2"), adapter=tmp_path / str(number))
