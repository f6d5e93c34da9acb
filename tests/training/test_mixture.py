"""Mixtures of soft prompts: the sum as its formula says, its gradient, its file, and the whole of `finetune`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import groundup as gu
from groundup.cli.main import main
from groundup.core.errors import GroundupError, UsageError
from groundup.inference.score import nll_each
from groundup.inputs.tokenizer import Encoded
from groundup.inputs.train import train_tokenizer
from groundup.model import Model
from groundup.peft.front import fronts
from groundup.peft.mixture import MixedPrompts
from groundup.training.objective import causal_loss
from groundup.training.pretrain import scratch

ROWS = [{"prompt": f"{a} or {b}:", "completion": f" {a}"} for a in ("sun", "sky", "sea") for b in ("red", "blue")]
QUICK: dict[str, Any] = {"precision": "float32", "batch": 3, "learning_rate": 0.1}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Model:
    tokenizer = train_tokenizer([r["prompt"] + r["completion"] for r in ROWS], "bpe", vocabulary=280, specials="causal")
    made = scratch("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4}, tokenizer)
    return gu.load(gu.save(replace(made, adapter=None, methods={}), tmp_path_factory.mktemp("base") / "gpt2"))


@pytest.fixture
def mixed(base: Model) -> Model:
    model = gu.adapt(base, gu.PromptMixture(count=3, length=2))
    front(model).weights.data.copy_(torch.tensor([0.5, -1.0, 2.0]))
    front(model).prompts.data.mul_(20)  # prompts that differ in what they give
    return model


def front(model: Model) -> MixedPrompts:
    found = fronts(model.network)["mine"]
    assert isinstance(found, MixedPrompts)
    return found


def encoded(model: Model) -> list[Encoded]:
    found = []
    for row in ROWS:
        before, ids = model.encode(row["prompt"]), model.encode(row["prompt"] + row["completion"])
        found.append(Encoded(ids, [i >= len(before) for i in range(len(ids))]))
    return found


def by_formula(model: Model) -> torch.Tensor:
    """-log Σ w p of each row [N], with gradients, from the logits of a forward pass for each row and prompt."""
    held, total = front(model), []
    for row in encoded(model):
        each = []
        for prompt in held.prompts:
            x = torch.cat([prompt, model.network.embed.tokens.weight.dense()[row.ids]])
            logits = forward(model, x)[len(prompt) :]
            said = logits.log_softmax(-1)[:-1].gather(1, torch.tensor(row.ids[1:])[:, None])[:, 0]
            each.append((said * torch.tensor(row.trained[1:])).sum())
        total.append(-(held.weights.log_softmax(0) + torch.stack(each)).logsumexp(0))
    return torch.stack(total)


def forward(model: Model, x: torch.Tensor) -> torch.Tensor:
    """The logits after these vectors: a soft prompt in place of every token, on a copy of the model."""
    from groundup.nn.cache import Fresh
    from groundup.nn.step import Spliced, Step

    step = replace(Step.of([len(x)], Fresh()), spliced=Spliced(torch.arange(len(x)), x))
    return model.network(torch.zeros(len(x), dtype=torch.long), step)


def test_a_row_is_as_likely_as_the_weighted_sum(mixed: Model) -> None:
    wanted = by_formula(mixed)
    found = [s for s, _ in nll_each(mixed.network, encoded(mixed), adapter="mine")]
    torch.testing.assert_close(torch.tensor(found), wanted.detach(), rtol=1e-5, atol=1e-5)
    alone = [s for s, _ in nll_each(mixed.network, encoded(mixed), adapter="mine~0")]
    assert (torch.tensor(alone) - wanted).abs().max() > 0.1  # one prompt is another thing


def test_the_gradient_is_that_of_the_formula(mixed: Model) -> None:
    held = front(mixed)
    wanted = torch.autograd.grad(by_formula(mixed).sum(), [held.prompts, held.weights])
    mixed.network.train()
    loss, count = causal_loss(mixed.network, encoded(mixed), adapter="mine")
    loss.backward()
    assert count == sum(sum(r.trained) for r in encoded(mixed))
    assert held.prompts.grad is not None and held.weights.grad is not None
    torch.testing.assert_close(held.prompts.grad, wanted[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(held.weights.grad, wanted[1], rtol=1e-4, atol=1e-6)
    assert all(g.abs().max() > 1e-4 for g in wanted)


def test_it_learns_is_kept_and_goes_on(base: Model, tmp_path: Path) -> None:
    fresh = gu.adapt(base, gu.PromptMixture(count=3, length=2))
    run = gu.finetune(fresh, ROWS, out=tmp_path / "run", steps=12, **QUICK)
    model = gu.load(str(base.origin.path), adapter=run.out)
    assert model.method == gu.PromptMixture(count=3, length=2)
    assert not torch.equal(front(model).weights, torch.zeros(3))
    before, after = (sum(s for s, _ in nll_each(m.network, encoded(m), adapter=m.adapter)) for m in (base, model))
    assert after < 0.9 * before
    again = gu.save(model, tmp_path / "again")
    assert torch.equal(front(gu.load(str(base.origin.path), adapter=again)).prompts, front(model).prompts)


def test_what_it_refuses(base: Model, mixed: Model, tmp_path: Path) -> None:
    for wrong in ({"count": 1}, {"length": 0}):
        with pytest.raises(UsageError, match="2 prompts or more"):
            gu.PromptMixture(**wrong)
    labels = [{"text": f"{a} {b}", "label": a} for a in ("sun", "sky") for b in ("red", "blue", "dim")]
    with pytest.raises(UsageError, match="not single labels rows"):
        gu.finetune(mixed, labels, out=tmp_path / "labels", steps=1, **QUICK)
    with pytest.raises(UsageError, match="puts something before every row"):
        gu.merge(mixed)
    with pytest.raises(UsageError, match="no adapter 'other~1'"):
        mixed.using("other~1")
    for wrong in ("mine~3", "mine~x"):
        with pytest.raises(UsageError, match="they are 0 to 2"):
            mixed.using(wrong)
    with pytest.raises(UsageError, match="this adapter is none"):
        gu.adapt(base, gu.Prompt(length=2)).using("mine~0")
    with pytest.raises(UsageError, match="not single labels rows"):
        gu.find_learning_rate(mixed, labels, steps=3, precision="float32")
    folder = gu.save(mixed, tmp_path / "mix")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"num_prompts": 4}))
    with pytest.raises(GroundupError, match="another base"):
        gu.load(str(base.origin.path), adapter=folder)


def test_from_the_command_line(base: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    folder, out = str(base.origin.path), str(tmp_path / "run")
    words = ["finetune", folder, "--data", str(data), "--out", out, "--method", "prompt-mixture", "--count", "2"]
    assert main([*words, "--length", "3", "--steps", "2", "--precision", "float32"]) == 0
    assert main(["generate", out, "sun or red:", "--max-tokens", "2", "--temperature", "0"]) == 0
    assert main([*words[:-4], "--method", "lora", "--count", "2"]) == 2
    assert "--count is no setting of --method lora" in capsys.readouterr().err
