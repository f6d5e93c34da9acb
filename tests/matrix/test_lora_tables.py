"""LoRA on embeddings, modules that PEFT saves whole, and patterns: in PEFT's layout, both ways, and what is refused."""

from __future__ import annotations

import json
import warnings

import peft
import pytest
import torch
from families import close, logits, stirred
from test_lora import reference, their_logits

import groundup as gu
from groundup.core.errors import GroundupError, UsageError
from groundup.peft.lora import LoRA

pytestmark = pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings")  # as here: the head stays the base's

TABLES = {
    "llama": (["embed_tokens", "q_proj"], "embed.tokens attn.q"),
    "gpt2": (["wte", "wpe"], "embed.tokens embed.positions"),
    "bloom": (["word_embeddings", "dense_4h_to_h"], "embed.tokens mlp.down"),
    "gpt_neox": (["embed_in"], "embed.tokens"),
    "gemma2": (["embed_tokens"], "embed.tokens"),
    "bert": (["word_embeddings", "token_type_embeddings", "query"], "embed.tokens embed.types attn.q"),
}


@pytest.mark.parametrize("family", TABLES)
def test_a_pair_of_peft_on_embeddings_gives_its_logits_here_and_back(folders, family, tmp_path):
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=TABLES[family][0], init_lora_weights=False)
    torch.manual_seed(0)
    theirs = peft.get_peft_model(reference(folders(family), family), config).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it writes the tables themselves beside the pairs
        theirs.save_pretrained(tmp_path / "theirs")
    ours = gu.load(folders(family), adapter=tmp_path / "theirs")
    close(logits(ours), their_logits(theirs, family), factor=2)
    assert (logits(ours, None) - logits(ours)).abs().max() > 1e-3
    gu.save(ours, tmp_path / "ours")
    back = peft.PeftModel.from_pretrained(reference(folders(family), family), tmp_path / "ours").eval()
    close(their_logits(back, family), their_logits(theirs, family), factor=2)


@pytest.mark.parametrize("family", TABLES)
def test_a_pair_of_ours_on_embeddings_keeps_the_laws(folders, family, tmp_path):
    base = gu.load(folders(family))
    fresh = gu.adapt(base, LoRA(rank=3, alpha=5, targets=TABLES[family][1]))
    close(logits(fresh), logits(base), factor=0.1)
    ours = stirred(fresh)
    assert torch.equal(logits(ours, None), logits(base))
    merged = gu.merge(ours)
    close(logits(merged), logits(ours), factor=2)
    gu.save(merged, tmp_path / "merged")
    close(logits(gu.load(tmp_path / "merged")), logits(ours), factor=2)  # also where the head was tied to the table
    gu.save(ours, tmp_path / "ours")
    back = peft.PeftModel.from_pretrained(reference(folders(family), family), tmp_path / "ours").eval()
    close(their_logits(back, family), logits(ours), factor=2)
    close(logits(gu.load(tmp_path / "ours")), logits(ours), factor=2)


def broken(folders, tmp_path, **changes):
    """An adapter of ours on embeddings, its settings changed."""
    gu.save(stirred(gu.adapt(gu.load(folders("llama")), LoRA(targets="embed.tokens attn.q"))), tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return tmp_path / "adapter"


def test_a_head_that_peft_ties_to_the_pair_is_refused(folders, tmp_path):
    with pytest.raises(UsageError, match="ensure_weight_tying"):
        gu.load(folders("llama"), adapter=broken(folders, tmp_path, ensure_weight_tying=True))


def test_a_table_that_was_changed_as_a_whole_is_refused(folders, tmp_path):
    config = peft.LoraConfig(r=3, target_modules=["embed_tokens"], init_lora_weights=False)
    theirs = peft.get_peft_model(reference(folders("llama"), "llama"), config).eval()
    theirs.get_input_embeddings().base_layer.weight.data[5] += 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.save_pretrained(tmp_path / "theirs")
    with pytest.raises(GroundupError, match="other vectors"):
        gu.load(folders("llama"), adapter=tmp_path / "theirs")


def test_where_a_pair_on_an_embedding_has_no_place(folders):
    with pytest.raises(UsageError, match="dora"):
        gu.adapt(gu.load(folders("llama")), LoRA(targets="embed.tokens", dora=True))
    with pytest.raises(UsageError, match="share this table"):
        gu.adapt(gu.load(folders("t5")), LoRA(targets="embed.tokens"))


def test_ranks_and_strengths_of_single_modules_are_found_as_peft_finds_them(folders, tmp_path):
    config = peft.LoraConfig(
        r=2, lora_alpha=5, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False,
        rank_pattern={"q_proj": 3, r"^model.layers.1.mlp.\w+": 5}, alpha_pattern={r"layers.\d+.self_attn.v_proj": 7},
    )  # fmt: skip
    theirs = peft.get_peft_model(reference(folders("llama"), "llama"), config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = gu.load(folders("llama"), adapter=tmp_path / "theirs")
    close(logits(ours), their_logits(theirs, "llama"))
    gu.save(ours, tmp_path / "ours")
    back = peft.PeftModel.from_pretrained(reference(folders("llama"), "llama"), tmp_path / "ours").eval()
    close(their_logits(back, "llama"), their_logits(theirs, "llama"))


@pytest.mark.parametrize("pattern", ["(a+)+", ".*.*.*.*q", "q**"])
def test_an_expression_that_could_take_for_ever_is_refused(folders, tmp_path, pattern):
    with pytest.raises(UsageError, match="expression"):
        gu.load(folders("llama"), adapter=broken(folders, tmp_path, alpha_pattern={pattern: 3}))
