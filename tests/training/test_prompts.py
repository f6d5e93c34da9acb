"""Prompts that begin as others do, and prompts that are held to a text, through the whole of `finetune`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import groundup as gu
from groundup.cli.main import main
from groundup.core.errors import UsageError
from groundup.inputs.train import train_tokenizer
from groundup.interpret.vectors import table_of
from groundup.model import Model
from groundup.peft.front import fronts
from groundup.training.pretrain import scratch

ROWS = [
    {"prompt": f"{a} or {b}:", "completion": f" {a}"} for a in ("sun", "sky", "sea") for b in ("red", "blue", "dim")
]
QUICK: dict[str, Any] = {"precision": "float32", "batch": 4}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Model:
    texts = [row["prompt"] + row["completion"] for row in ROWS]
    tokenizer = train_tokenizer(texts, "bpe", vocabulary=280, specials="causal")
    made = scratch("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4}, tokenizer)
    return gu.load(gu.save(replace(made, adapter=None, methods={}), tmp_path_factory.mktemp("base") / "gpt2"))


def vectors(model: Model) -> torch.Tensor:
    found = fronts(model.network)[str(model.adapter)].vectors()
    assert found is not None
    return found.detach()


def test_a_prompt_begins_as_another_repeated_or_cut(base: Model, tmp_path: Path) -> None:
    source = vectors(gu.adapt(base, gu.Prompt(length=3), seed=5))
    folder = gu.save(gu.adapt(base, gu.Prompt(length=3), seed=5), tmp_path / "source")
    for length, wanted in ((3, source), (2, source[:2]), (7, torch.cat([source, source, source])[:7])):
        begun = gu.adapt(base, gu.Prompt(length=length), seed=1, start=folder)
        assert torch.equal(vectors(begun), wanted) and list(begun.methods) == ["mine"]
    assert not torch.equal(vectors(gu.adapt(base, gu.Prompt(length=3), seed=1)), source)


def test_other_kinds_do_not_begin_as_others(base: Model, tmp_path: Path) -> None:
    run = gu.finetune(gu.adapt(base, gu.LoRA(rank=2)), ROWS, out=tmp_path / "run", steps=1, **QUICK)
    with pytest.raises(UsageError, match="lora adapters do not"):
        gu.adapt(base, gu.LoRA(rank=2), start=run.out)
    with pytest.raises(UsageError, match="an adapter of kind lora; a prompt cannot start from it"):
        gu.adapt(base, gu.Prompt(), start=run.out)


def test_a_source_prompt_from_the_command_line(base: Model, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    words = ["finetune", str(base.origin.path), f"--data={data}", "--method=prompt", "--precision=float32"]
    assert main([*words, "--length=3", "--steps=4", f"--out={tmp_path / 'a'}"]) == 0
    rest = ["--length=5", "--steps=1", "--learning-rate=1e-9", f"--out={tmp_path / 'b'}"]
    assert main([*words, *rest, f"--init-from={tmp_path / 'a'}"]) == 0
    one, two = (vectors(gu.load(tmp_path / run)) for run in "ab")
    assert torch.allclose(two, torch.cat([one, one])[:5], atol=1e-6)


def test_a_prompt_is_held_to_a_text(base: Model, tmp_path: Path) -> None:
    method = gu.Prompt(length=4, near="dim sea", gamma=0.5)
    tuned = gu.adapt(base, method)
    ids = torch.tensor(base.encode("dim sea"))
    text = table_of(base)[ids.repeat(4)[:4]]
    wanted = 0.5 * sum(float((p - e).pow(2).sum()) for p, e in zip(vectors(tuned), text, strict=True)) / 4
    held = method.penalty(tuned.network, "mine")
    assert held is not None and held.item() == pytest.approx(wanted, rel=1e-5)
    assert gu.Prompt().penalty(gu.adapt(base, gu.Prompt()).network, "mine") is None

    def off(one: gu.Prompt, name: str) -> tuple[float, float]:
        run = gu.finetune(gu.adapt(base, one), ROWS, out=tmp_path / name, steps=60, learning_rate=0.1, **QUICK)
        return float((vectors(gu.load(run.last)) - text).norm(dim=1).mean()), run.first_loss

    free, near = off(gu.Prompt(length=4), "free"), off(method, "near")
    assert near[0] < 0.5 * free[0]
    assert near[1] - free[1] == pytest.approx(wanted, rel=1e-3)  # the same seed and rows: the loss and the penalty
    for given in ({"near": "sea"}, {"gamma": 1.0}, {"near": "sea", "gamma": -1.0}):
        with pytest.raises(UsageError, match="belong together"):
            gu.Prompt(**given)
