"""Several adapters from the command line: sums of them, and one over the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import groundup as gu
from groundup.cli.main import main
from groundup.folders import probe
from groundup.models import llama
from groundup.peft.prompt import SoftPrompt


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A tiny model and three adapters for it, each far from its start."""
    config = llama.Config(
        vocab_size=31, hidden_size=12, num_hidden_layers=1, num_attention_heads=3, num_key_value_heads=1,
        intermediate_size=17, max_position_embeddings=32, tie_word_embeddings=False,
    )  # fmt: skip
    gu.save(gu.build(config, std=0.3), tmp_path / "base")
    base = gu.load(tmp_path / "base")
    for seed, (name, method) in enumerate(
        {"a": gu.LoRA(rank=2), "b": gu.LoRA(rank=3), "p": gu.Prompt(length=2)}.items()
    ):
        tuned = gu.adapt(base, method, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        for parameter in method.trained(tuned.network, "mine").values():
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.3
        gu.save(tuned, tmp_path / name)
    return tmp_path


def said(words: list[str], capsys: pytest.CaptureFixture[str]) -> Any:
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def logits(model: gu.Model) -> torch.Tensor:
    return torch.tensor(probe(model, str(model.adapter)).with_it)


def test_combine_writes_a_sum(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, base, out = (str(folders / n) for n in ("a", "b", "base", "sum"))
    words = ["combine", base, "--adapter", a, "--adapter", b, "--weights", "0.7,-0.2", "--out", out]
    assert said(words, capsys)["weights"] == {a: 0.7, b: -0.2}
    both = gu.load(base, adapter=[a, b])
    want = logits(gu.combine(both, {"mine": 0.7, "mine2": -0.2}))
    assert torch.allclose(logits(gu.load(out)), want, atol=1e-5)
    assert not torch.allclose(want, logits(both), atol=1e-3)
    assert main(words) == 2  # it exists
    assert main(["combine", base, "--adapter", a, "--out", out + "2"]) == 2
    assert main([*words[:-2], "--weights", "1,2,3", "--out", out + "2"]) == 2
    assert main([*words[:-4], "--weights", "1,x", "--out", out + "2"]) == 2
    assert main(["combine", base, "--adapter", a, "--adapter", str(folders / "p"), "--out", out + "2"]) == 2
    assert "one kind" in capsys.readouterr().err
    assert said([*words[:6], "--rank", "2", "--out", out + "2"], capsys)["weights"] == {a: 0.5, b: 0.5}
    assert gu.load(out + "2").method.rank == 2


def test_several_adapters_are_used_one_over_the_other_and_merged(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, p, base = (str(folders / n) for n in ("a", "b", "p", "base"))
    assert said(["info", base, "--adapter", a, "--adapter", p], capsys)["adapters"] == ["mine", "mine2"]
    assert said(["merge", base, "--adapter", a, "--adapter", b, "--out", str(folders / "merged")], capsys)
    merged = gu.load(folders / "merged")
    want = logits(gu.load(base, adapter=[a, b]))
    assert torch.allclose(torch.tensor(probe(merged, "none").without), want, atol=1e-4)
    assert main(["merge", base, "--adapter", a, "--adapter", p, "--out", str(folders / "no")]) == 2
    assert "before every row" in capsys.readouterr().err
    assert isinstance(gu.load(a, adapter=p).network.adapters["mine2"], SoftPrompt)
