"""Heads for labels: transformers' classes against ours, from their files and back, for every family that has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from groundup import api
from groundup.adapting import with_labels
from groundup.checkpoints.load import load
from groundup.checkpoints.save import write
from groundup.core.config import FamilyConfig
from groundup.core.errors import GroundupError, UsageError
from groundup.core.labels import Labels
from groundup.inference.classify import scores
from parity.oracles import CASES, Case, redraw

STEMS = {
    "bert": "Bert",
    "roberta": "Roberta",
    "distilbert": "DistilBert",
    "gpt2": "GPT2",
    "llama": "Llama",
    "bloom": "Bloom",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "gemma": "Gemma",
    "gemma2": "Gemma2",
    "mpt": "Mpt",
    "gpt_neox": "GPTNeoX",
}
PLAIN = [next(c for c in CASES if c.family == family) for family in STEMS if any(c.family == family for c in CASES)]
ROWS = [[5, 9, 2, 11, 40], [17, 3, 88, 61, 23, 9, 31, 7], [12]]
NAMES = {0: "down", 1: "up", 2: "out"}
HEADS = ("sequence", "token")


def made(case: Case, level: str, folder: Path, **more: Any) -> nn.Module:
    name = STEMS[case.family] + ("ForSequenceClassification" if level == "sequence" else "ForTokenClassification")
    labels = more or {"id2label": NAMES, "label2id": {v: k for k, v in NAMES.items()}}
    config = transformers.AutoConfig.for_model(case.family, **case.config, **labels)
    model = getattr(transformers, name)(config).eval()
    redraw(model)
    model.save_pretrained(folder)
    return model


@torch.no_grad()
def theirs(model: nn.Module, row: list[int]) -> torch.Tensor:
    return model(input_ids=torch.tensor([row]), attention_mask=torch.ones(1, len(row), dtype=torch.long)).logits[0]


def ours(network: Any, level: str) -> list[torch.Tensor]:
    found = scores(network, ROWS, None if level == "sequence" else [list(range(len(r))) for r in ROWS])
    return [f[0] if level == "sequence" else f for f in found]


@pytest.mark.parametrize("level", HEADS)
@pytest.mark.parametrize("case", PLAIN, ids=lambda c: c.family)
def test_same_scores_loaded_and_written_back(case: Case, level: str, tmp_path: Path) -> None:
    oracle = made(case, level, tmp_path / "theirs")
    found = load(tmp_path / "theirs")
    assert found.config.labels == Labels(("down", "up", "out"), "single", level)
    (tmp_path / "ours").mkdir()
    write(tmp_path / "ours", found.network, found.family, found.config)
    again, report = type(oracle).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert again.config.id2label == NAMES
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert config["architectures"] == [type(oracle).__name__]
    for row, mine in zip(ROWS, ours(found.network, level), strict=True):
        want = theirs(oracle, row)
        assert float(want.abs().max()) > 0.1
        assert float((mine - want).abs().max()) <= 1e-5 * max(1.0, float(want.abs().max()))
        assert torch.equal(theirs(again.eval(), row), want)


def test_the_place_that_is_judged_matters(tmp_path: Path) -> None:
    """A negative control: a decoder's first token and an encoder's last say something else."""
    for case in PLAIN[:4]:
        oracle = made(case, "sequence", tmp_path / case.name)
        network = load(tmp_path / case.name).network
        wrong = 0 if case.causal else len(ROWS[0]) - 1
        other = scores(network, [ROWS[0]], [[wrong]])[0][0]
        assert float((other - theirs(oracle, ROWS[0])).abs().max()) > 1e-2


@pytest.mark.parametrize("case", PLAIN[:3], ids=lambda c: c.family)
def test_the_activation_before_the_labels_matters(case: Case, tmp_path: Path) -> None:
    """A negative control: BERT and RoBERTa have tanh there, DistilBERT relu."""
    oracle = made(case, "sequence", tmp_path)
    network = load(tmp_path).network
    network.pooler.act = torch.tanh if case.family == "distilbert" else torch.relu
    assert float((ours(network, "sequence")[0] - theirs(oracle, ROWS[0])).abs().max()) > 1e-2


def test_a_pooler_beside_a_head_for_words_is_ignored(tmp_path: Path) -> None:
    """Files of older libraries keep it, though nothing reads it."""
    made(PLAIN[0], "token", tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    width = PLAIN[0].config["hidden_size"]
    save_file(held | {"bert.pooler.dense.weight": torch.ones(width, width)}, tmp_path / "model.safetensors")
    assert "1 tensors ignored: bert.pooler.dense.weight" in load(tmp_path).notes


def test_what_the_config_says(tmp_path: Path) -> None:
    case = PLAIN[0]
    made(case, "sequence", tmp_path / "plain", num_labels=2)
    assert load(tmp_path / "plain").config.labels == Labels(("LABEL_0", "LABEL_1"))
    made(case, "sequence", tmp_path / "number", num_labels=1)
    assert load(tmp_path / "number").config.labels == Labels(("LABEL_0",), "regression")
    made(case, "sequence", tmp_path / "many", num_labels=4, problem_type="multi_label_classification")
    several = load(tmp_path / "many").config.labels
    assert several is not None and several.problem == "multi" and len(several.names) == 4
    lm = api.load(tmp_path / "many")
    assert lm.info()["labels"] == ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"]
    held = json.loads((tmp_path / "many" / "config.json").read_text())
    for key, value in (("problem_type", "guess"), ("id2label", {"0": "a", "5": "b"})):
        (tmp_path / "many" / "config.json").write_text(json.dumps(held | {key: value}))
        with pytest.raises(UsageError, match=key):
            load(tmp_path / "many")


def test_a_file_without_its_pooler_is_refused(tmp_path: Path) -> None:
    made(PLAIN[0], "token", tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(
        json.dumps(config | {"architectures": ["BertForSequenceClassification"]})
    )
    with pytest.raises(GroundupError, match=r"missing from the file: pooler\.dense"):
        load(tmp_path / "m")


@pytest.mark.parametrize("case", PLAIN, ids=lambda c: c.family)
def test_a_fresh_head_leaves_the_base_alone(case: Case, tmp_path: Path) -> None:
    oracle = getattr(transformers, case.reference)(transformers.AutoConfig.for_model(case.family, **case.config))
    redraw(oracle)
    oracle.save_pretrained(tmp_path / "m")
    base = api.load(tmp_path / "m")
    made = with_labels(base, Labels(("a", "b")), seed=3)
    assert base.config.labels is None and base.network.head is not None and base.network.labels is None
    assert made.network.blocks[0].attn.q.weight.values is base.network.blocks[0].attn.q.weight.values
    assert made.network.labels.weight.values.std() < 0.05
    api.save(made, tmp_path / "out")
    reference = getattr(transformers, STEMS[case.family] + "ForSequenceClassification")
    again, report = reference.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for row, mine in zip(ROWS, ours(made.network, "sequence"), strict=True):
        assert float((mine - theirs(again.eval(), row)).abs().max()) <= 1e-5


# --- heads beside PEFT's adapters -------------------------------------------------------------------------------------

BY_FAMILY = {c.family: c for c in PLAIN}
LINEARS = {
    "bert": ["query", "value"],
    "roberta": ["query", "value"],
    "distilbert": ["q_lin", "lin1"],
    "gpt2": ["c_attn"],
}
BESIDE = [
    (family, level, kind)
    for family in ("bert", "roberta", "distilbert", "gpt2")
    for level in HEADS
    for kind in ("lora", "prompt", "prefix")
    if (family, kind) != ("distilbert", "prefix")  # PEFT has none for a model without a cache
]


@pytest.mark.filterwarnings("ignore")  # positions, caches and pooled outputs that PEFT warns about on every call
@pytest.mark.parametrize(("family", "level", "kind"), BESIDE)
def test_an_adapter_with_a_head_is_pefts_both_ways(family: str, level: str, kind: str, tmp_path: Path) -> None:
    """A soft prompt stands before the whole input: an encoder's head reads its first vector, not [CLS]."""
    case = BY_FAMILY[family]
    oracle = made(case, level, tmp_path / "m")
    task = "SEQ_CLS" if level == "sequence" else "TOKEN_CLS"
    config: Any = {
        "lora": lambda: peft.LoraConfig(
            target_modules=LINEARS[family],
            r=3,
            task_type=task,
            fan_in_fan_out=family == "gpt2",
            init_lora_weights=False,
        ),
        "prompt": lambda: peft.PromptTuningConfig(num_virtual_tokens=4, task_type=task, **sizes(case)),
        "prefix": lambda: peft.PrefixTuningConfig(num_virtual_tokens=4, task_type=task, **sizes(case)),
    }[kind]()
    torch.manual_seed(0)
    reference = peft.get_peft_model(oracle, config).eval()
    generator = torch.Generator().manual_seed(3)
    for name, parameter in reference.named_parameters():
        if parameter.requires_grad and "lora" not in name:  # the prompt, and the head: no longer the base's
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.3
    reference.save_pretrained(tmp_path / "theirs")
    tuned = api.load(tmp_path / "m", adapter=tmp_path / "theirs")
    api.save(tuned, tmp_path / "ours")
    again = peft.PeftModel.from_pretrained(type(oracle).from_pretrained(tmp_path / "m"), tmp_path / "ours").eval()
    places = None if level == "sequence" else [list(range(len(r))) for r in ROWS]
    got = scores(tuned.network, ROWS, places, adapter=tuned.adapter)
    for row, mine, base in zip(ROWS, got, scores(tuned.network, ROWS, places), strict=True):
        for model in (reference, again):
            want = theirs(model, row).reshape(-1, 3)[-len(mine) :]
            assert float((mine - want).abs().max()) <= 2e-5 * max(1.0, float(want.abs().max()))
        assert float((mine - base).abs().max()) > 1e-2


def sizes(case: Case) -> dict[str, int]:
    """What PEFT asks of a base with names that it does not know."""
    config = transformers.AutoConfig.for_model(case.family, **case.config)
    return {
        "token_dim": config.hidden_size,
        "num_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
    }


def test_an_encoder_decoder_has_none() -> None:
    from groundup.models import t5

    lm = api.build(t5.Config(vocab_size=50, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    with pytest.raises(UsageError, match="t5 is not supported"):
        with_labels(lm, Labels(("a", "b")))
    assert isinstance(lm.config, FamilyConfig)
