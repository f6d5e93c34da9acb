"""The laws of LoRA on every family, and PEFT as its oracle. Rows of the matrix: families; columns: laws."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

import groundup as gu
from groundup.api import add_adapter
from groundup.core.errors import GroundupError, UsageError
from groundup.model import Model
from groundup.nn.cache import Fresh
from groundup.nn.stack import EncoderDecoder
from groundup.nn.step import Step
from groundup.peft.lora import LoRA, pairs, trained
from groundup.peft.surgery import linears

IDS = {"vocab_size": 97, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 35, "n_layer": 2, "n_head": 5, "n_positions": 64}),
    "llama": (
        "LlamaForCausalLM",
        {"hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2,
         "intermediate_size": 37, "max_position_embeddings": 64},
    ),
    "bloom": ("BloomForCausalLM", {"hidden_size": 30, "n_layer": 2, "n_head": 6}),
    "bert": (
        "BertForMaskedLM",
        {"hidden_size": 35, "num_hidden_layers": 2, "num_attention_heads": 5, "intermediate_size": 41},
    ),
    "t5": (
        "T5ForConditionalGeneration",
        {"d_model": 35, "d_kv": 6, "d_ff": 41, "num_layers": 2, "num_heads": 5, "decoder_start_token_id": 0},
    ),
}  # fmt: skip
LENGTHS = (5, 11, 1, 7)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny random checkpoint of each family, written by the reference library."""
    kept: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in kept:
            name, config = FAMILIES[family]
            reference = getattr(transformers, name)(transformers.AutoConfig.for_model(family, **IDS, **config))
            generator = torch.Generator().manual_seed(1)
            for place, parameter in reference.named_parameters():
                gain = parameter.ndim == 1 and place.endswith("weight")
                parameter.data = torch.randn(parameter.shape, generator=generator) * 0.25 + gain
            kept[family] = tmp_path_factory.mktemp(family)
            reference.save_pretrained(kept[family])
        return kept[family]

    return make


def rows(seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 97, (sum(LENGTHS),), generator=torch.Generator().manual_seed(seed))


def logits(model: Model, adapters: Any = "as it is") -> torch.Tensor:
    """Of the same ragged rows, for any family."""
    adapters = model.adapter if adapters == "as it is" else adapters
    network, ids = model.network, rows()
    with torch.no_grad():
        if isinstance(network, EncoderDecoder):
            memory = network.encode(ids, Step.of(LENGTHS, Fresh(), adapters=adapters))
            return network(rows(1), Step.of(LENGTHS, Fresh(), adapters=adapters, memory=memory))
        return network(ids, Step.of(LENGTHS, Fresh(), adapters=adapters))


def stirred(model: Model, name: str = "mine", seed: int = 7) -> Model:
    """An adapter far from its start."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in trained(model.network, name).values():
        with torch.no_grad():
            parameter.normal_(std=0.3, generator=generator)
    return model


def close(ours: torch.Tensor, theirs: torch.Tensor, factor: float = 1.0) -> None:
    assert (ours - theirs).abs().max() <= 1e-5 * factor * max(1.0, float(theirs.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
class TestLaws:
    def test_identity_at_the_start_and_off_is_the_base_to_the_bit(self, folders, family):
        base = gu.load(folders(family))
        tuned = gu.adapt(base, LoRA(rank=3, alpha=5, targets="all"))
        assert torch.equal(logits(tuned), logits(base))
        stirred(tuned)
        assert not torch.allclose(logits(tuned), logits(base), atol=1e-2)
        assert torch.equal(logits(tuned, None), logits(base))

    def test_the_base_shares_its_weights_and_never_sees_the_adapter(self, folders, family):
        base = gu.load(folders(family))
        before = logits(base)
        tuned = stirred(gu.adapt(base, LoRA(targets="all")))
        assert torch.equal(logits(base, "mine"), before) and not pairs(base.network, "mine")
        ours = {p.data_ptr() for p in base.network.parameters()}
        assert ours <= {p.data_ptr() for p in tuned.network.parameters()}

    def test_merged_is_unmerged(self, folders, family):
        tuned = stirred(gu.adapt(gu.load(folders(family)), LoRA(rank=3, alpha=5, targets="all")))
        merged = gu.merge(tuned)
        close(logits(merged), logits(tuned), factor=2)
        assert merged.adapter is None and "logits moved" in merged.notes[-1]

    def test_saved_and_loaded(self, folders, family, tmp_path):
        base = gu.load(folders(family))
        tuned = stirred(gu.adapt(base, LoRA(rank=3, alpha=5, targets="attn.q attn.v mlp.down", rank_stabilized=True)))
        gu.save(tuned, tmp_path / "adapter")
        again = gu.load(folders(family), adapter=tmp_path / "adapter")
        close(logits(again), logits(tuned), factor=2)
        assert "takes effect" in again.notes[-1]
        close(logits(gu.load(tmp_path / "adapter")), logits(tuned), factor=2)  # the folder names its base

    def test_only_its_own_parameters_move_and_every_one_does(self, folders, family):
        tuned = gu.adapt(gu.load(folders(family)), LoRA(rank=3, targets="all"))
        own = trained(stirred(tuned).network, "mine")
        for parameter in own.values():
            parameter.requires_grad_()
        network, ids = tuned.network, rows()
        step = Step.of(LENGTHS, Fresh(), adapters="mine")
        if isinstance(network, EncoderDecoder):
            step = Step.of(LENGTHS, Fresh(), adapters="mine", memory=network.encode(rows(1), step))
        network(ids, step).square().sum().backward()
        moved = {n for n, p in network.named_parameters() if p.grad is not None}
        assert len(moved) == len(own)
        # one key alone, or one row of length one, may leave a gradient at zero; an adapter that is never used may not
        assert all(p.grad is not None and bool(p.grad.ne(0).any()) for p in own.values())

    def test_rows_of_one_batch_use_their_own_adapters(self, folders, family):
        model = gu.adapt(gu.load(folders(family)), LoRA(rank=3, targets="all"), name="a")
        model = gu.adapt(model, LoRA(rank=2, alpha=9, targets="attn.q mlp.down"), name="b")
        stirred(stirred(model, "a", 3), "b", 4)
        mixed = logits(model, ["a", None, "b", "a"]).split(LENGTHS)
        alone = {name: logits(model, name).split(LENGTHS) for name in ("a", "b", None)}
        for i, name in enumerate(["a", None, "b", "a"]):
            close(mixed[i], alone[name][i])
        assert not torch.allclose(mixed[0], alone["b"][0], atol=1e-2)


def test_a_target_that_matches_nothing_is_refused_with_what_there_is(folders):
    with pytest.raises(UsageError, match=r"q_proj.*attn\.q"):
        gu.adapt(gu.load(folders("llama")), LoRA(targets="q_proj"))


def test_an_adapter_for_another_base_is_refused(folders, tmp_path):
    tuned = stirred(gu.adapt(gu.load(folders("llama")), LoRA()))
    gu.save(tuned, tmp_path / "adapter")
    base = gu.load(folders("llama"))
    other = replace(base, origin=replace(base.origin, fingerprint="0" * 64))
    with pytest.raises(GroundupError, match="trained on"):
        add_adapter(other, tmp_path / "adapter")


def test_an_adapter_whose_effect_changed_is_refused(folders, tmp_path):
    tuned = stirred(gu.adapt(gu.load(folders("llama")), LoRA()))
    gu.save(tuned, tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": 3.0}))
    with pytest.raises(GroundupError, match="does not do here"):
        gu.load(folders("llama"), adapter=tmp_path / "adapter")


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
@pytest.mark.parametrize("stabilized", [False, True])
def test_an_adapter_of_peft_gives_its_logits_here(folders, family, stabilized, tmp_path):
    config = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=MODULES[family][0], use_rslora=stabilized, fan_in_fan_out=family == "gpt2",
        init_lora_weights=False,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = peft.get_peft_model(reference(folders(family), family), config).eval()
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
@pytest.mark.parametrize("stabilized", [False, True])
def test_an_adapter_of_ours_gives_its_logits_in_peft(folders, family, stabilized, tmp_path):
    method = LoRA(rank=3, alpha=5, targets=MODULES[family][1], rank_stabilized=stabilized)
    ours = stirred(gu.adapt(gu.load(folders(family)), method))
    gu.save(ours, tmp_path / "ours")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        theirs = peft.PeftModel.from_pretrained(reference(folders(family), family), tmp_path / "ours").eval()
    assert not [w for w in said if "missing" in str(w.message).lower()]
    close(their_logits(theirs, family), logits(ours), factor=2)


def test_settings_of_peft_that_change_the_mathematics_are_refused(folders, tmp_path):
    config = peft.LoraConfig(r=3, target_modules=["q_proj"], use_dora=True)
    peft.get_peft_model(reference(folders("llama"), "llama"), config).save_pretrained(tmp_path / "dora")
    with pytest.raises(UsageError, match="use_dora"):
        gu.load(folders("llama"), adapter=tmp_path / "dora")


def test_settings_of_a_newer_peft_are_named(folders, tmp_path):
    gu.save(stirred(gu.adapt(gu.load(folders("llama")), LoRA())), tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_tomorrow": 3}))
    with pytest.raises(UsageError, match="use_tomorrow"):
        gu.load(folders("llama"), adapter=tmp_path / "adapter")


def test_linears_are_named_alike_in_all_families(folders):
    for family in FAMILIES:
        names = list(linears(gu.load(folders(family)).network))
        assert any(n.endswith("attn.q") for n in names) and any(n.endswith("mlp.down") for n in names)


def test_an_adapter_with_its_base_beside_it_loads_in_peft_and_here(folders, tmp_path):
    ours = stirred(gu.adapt(gu.load(folders("llama")), LoRA(rank=3, targets="attn.q mlp.down")))
    gu.save(ours, tmp_path / "both", with_base=True)
    named = json.loads((tmp_path / "both" / "adapter_config.json").read_text())["base_model_name_or_path"]
    theirs = peft.PeftModel.from_pretrained(reference(Path(named), "llama"), tmp_path / "both").eval()
    close(their_logits(theirs, "llama"), logits(ours), factor=2)
    close(logits(gu.load(tmp_path / "both")), logits(ours), factor=2)
