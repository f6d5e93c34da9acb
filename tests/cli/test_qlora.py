"""QLoRA: an adapter on a base in four bits, from training to the answer."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

import groundup as gu
from groundup.adapting import add_adapter
from groundup.cli.main import main
from groundup.core.errors import UsageError
from groundup.inputs.train import train_tokenizer
from groundup.quantization.shrink import loosened, stored

ROWS = [{"prompt": f"{a} or {b}:", "completion": f" {a}"} for a in ("sun", "sky", "sea") for b in ("red", "blue")]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "llama"
    config = transformers.LlamaConfig(
        vocab_size=280, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
        max_position_embeddings=64, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = train_tokenizer([r["prompt"] + r["completion"] for r in ROWS], "bpe", vocabulary=280, specials="causal")
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_the_base_is_in_four_bits_in_training_and_afterwards(base: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["finetune", str(base), "--data", str(data), "--out", str(out), "--steps", "3", "--precision", "float32"]
    assert main([*words, "--method", "qlora", "--rank", "2"]) == 0
    assert json.loads((out / "run.json").read_text())["base"]["storage"] == [{"to": "nf4", "targets": "all"}]
    found = gu.load(out)
    assert len(stored(found.network)) == 14 and {s.kind.name for s in stored(found.network).values()} == {"nf4"}
    assert any("stored as nf4, as in training" in note for note in found.notes)
    # the adapter fits the base as it was, too, and says so
    dense = gu.load(base, adapter=out)
    assert not stored(dense.network)
    text = "sun or red:"
    assert (found.logits(text) - dense.logits(text)).abs().max() > 1e-3
    # by hand: quantize, then the adapter
    by_hand = add_adapter(gu.quantize(gu.load(base), "nf4"), out)
    assert torch.equal(by_hand.logits(text), found.logits(text))
    # and its weights are the rounded ones of the base
    rounded = replace(by_hand, network=loosened(by_hand.network))
    torch.testing.assert_close(rounded.logits(text), found.logits(text), rtol=1e-5, atol=1e-5)


def test_another_kind_and_what_is_refused(
    base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["finetune", str(base), "--data", str(data), "--steps", "2", "--precision", "float32"]
    assert main([*words, "--out", str(tmp_path / "a"), "--method", "ia3", "--store", "int8"]) == 0
    assert {s.kind.name for s in stored(gu.load(tmp_path / "a").network).values()} == {"int8"}
    assert main([*words, "--out", str(tmp_path / "b"), "--method", "full", "--store", "int8"]) == 2
    assert "cannot learn" in capsys.readouterr().err
    assert main([*words, "--out", str(tmp_path / "c"), "--method", "qlora", "--length", "3"]) == 2
    assert not (tmp_path / "b").exists() and not (tmp_path / "c").exists()
    calibrated = gu.adapt(gu.quantize(gu.load(base), "int4", calibrate=ROWS), gu.LoRA(rank=2))
    with pytest.raises(UsageError, match="save it, and tune the folder"):
        gu.finetune(calibrated, ROWS, out=tmp_path / "d", steps=1)
    assert main([*words, "--out", str(tmp_path / "a"), "--resume"]) == 2  # finished


def test_beside_its_base_in_few_bits_it_is_the_same(base: Path, data: Path, tmp_path: Path) -> None:
    """`with_base` writes the codes, which nobody stores a second time when they are read."""
    model = gu.adapt(gu.quantize(gu.load(base), "int8"), gu.LoRA(rank=2))
    for parameter in model.method.trained(model.network, "mine").values():
        parameter.data.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    found = gu.load(gu.save(model, tmp_path / "both", with_base=True))
    assert len(stored(found.network)) == 14
    assert torch.equal(found.logits("sun or red:"), model.logits("sun or red:"))
