"""Adapters on a network without a head (all-minilm-l6-v2 and its kin): PEFT's files both ways, and the probe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from families import stirred

import groundup as gu
from groundup.core.errors import GroundupError, UsageError
from groundup.inference.embed import embed
from groundup.peft.methods import METHODS
from interpret.worded import write_bert

IDS = [2, 44, 45, 46, 3]


def state(model: gu.Model) -> torch.Tensor:
    return embed(model.network, [IDS], adapter=model.adapter, normalize=False)[0]


def theirs(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([IDS])).last_hidden_state[0].mean(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("headless") / "base"
    write_bert(path, kind="BertModel")
    return path


def test_an_adapter_of_ours_is_kept_checked_and_read_by_peft(folder: Path, tmp_path: Path) -> None:
    base = gu.load(folder)
    tuned = stirred(gu.adapt(base, gu.LoRA(rank=3)))
    assert (state(tuned) - state(base)).abs().max() > 0.01
    gu.save(tuned, tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["task_type"] == "FEATURE_EXTRACTION"
    again = gu.load(folder, adapter=tmp_path / "adapter")
    assert "takes effect" in again.notes[-1] and torch.equal(state(again), state(tuned))
    reference = transformers.BertModel.from_pretrained(folder).eval()
    torch.testing.assert_close(theirs(peft.PeftModel.from_pretrained(reference, tmp_path / "adapter")), state(tuned))
    torch.testing.assert_close(state(gu.merge(tuned)), state(tuned))
    # and the probe still sees what is not as it was saved
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": 3.0}))
    with pytest.raises(GroundupError, match="does not do here"):
        gu.load(folder, adapter=tmp_path / "adapter")


@pytest.mark.parametrize("kind", sorted(name for name, method in METHODS.items() if not method.whole))
def test_every_method_is_kept_and_checked(kind: str, folder: Path, tmp_path: Path) -> None:
    settings = {"length": 3} if issubclass(METHODS[kind], gu.Prompt | gu.PrefixTuning | gu.LlamaAdapter) else {}
    settings |= {"layers": 2} if kind == "llama-adapter" else {}
    tuned = stirred(gu.adapt(gu.load(folder), METHODS[kind](**settings)))
    gu.save(tuned, tmp_path / "adapter")
    again = gu.load(folder, adapter=tmp_path / "adapter")
    assert "takes effect" in again.notes[-1] and torch.equal(state(again), state(tuned))


def test_an_adapter_of_peft_is_read(folder: Path, tmp_path: Path) -> None:
    how = {"r": 3, "target_modules": ["query", "output.dense"], "init_lora_weights": False}
    config = peft.LoraConfig(task_type="FEATURE_EXTRACTION", **how)
    made = peft.get_peft_model(transformers.BertModel.from_pretrained(folder), config).eval()
    made.save_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(state(gu.load(folder, adapter=tmp_path / "adapter")), theirs(made))


def test_texts_alone_teach_it_nothing_and_nothing_is_begun(folder: Path, tmp_path: Path) -> None:
    tuned = gu.adapt(gu.load(folder), gu.LoRA())
    with pytest.raises(UsageError, match="no words to learn: it can `embed`, or learn rows with labels"):
        gu.finetune(tuned, [{"text": "the cat sat"}] * 9, out=tmp_path / "run", steps=1)
    assert not (tmp_path / "run").exists()
