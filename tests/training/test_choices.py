"""T-Few's losses: equal to the paper's equations on transformers' scores, learned through the whole of `finetune`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import groundup as gu
from groundup.cli.main import main
from groundup.core.errors import UsageError
from groundup.data import rows
from groundup.evaluation.choices import encode_choice
from groundup.inputs.train import train_tokenizer
from groundup.model import Model
from groundup.nn.cache import Fresh
from groundup.nn.linear import Linear
from groundup.nn.step import Step
from groundup.peft.full import Full
from groundup.training.choices import choice_loss, choose, encode_choices, surprises
from groundup.training.pretrain import scratch

WORDS = ["red rose", "sky", "green grass of home", "sun"]
ASKED = [
    {"prompt": f"{a} and {b}: the {which}", "choices": [a, b, "moon"], "answer": 0 if which == "first" else 1}
    for a in WORDS for b in WORDS if a != b for which in ("first", "second")
]  # fmt: skip
QUICK: dict[str, Any] = {"learning_rate": 1e-2, "precision": "float32", "batch": 8}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Model:
    texts = [f"{row['prompt']} {choice}" for row in ASKED for choice in row["choices"]]
    tokenizer = train_tokenizer(texts, "bpe", vocabulary=300, specials="causal")
    made = scratch("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4}, tokenizer)
    return gu.load(gu.save(replace(made, adapter=None, methods={}), tmp_path_factory.mktemp("base") / "gpt2"))


def by_the_paper(base: Model, asked: list[dict[str, Any]]) -> tuple[torch.nn.Module, list[torch.Tensor]]:
    """L_LM, L_UL and L_LN (arXiv 2205.05638, section 3.2), summed over questions, from transformers' scores."""
    theirs = transformers.GPT2LMHeadModel.from_pretrained(base.origin.path).eval()
    sums = [torch.zeros(()) for _ in range(3)]
    for row in asked:
        each = []
        for choice in row["choices"]:
            ids, own = (lambda e: (torch.tensor([e.ids]), e.trained.index(True)))(
                encode_choice(row["prompt"], choice, base.words)
            )
            share = theirs(input_ids=ids).logits[0].softmax(-1)
            each.append(torch.stack([share[t - 1, ids[0, t]] for t in range(own, ids.shape[1])]))
        right = each.pop(row["answer"])
        sums[0] = sums[0] - right.log().mean()
        sums[1] = sums[1] - torch.log(1 - torch.cat(each)).sum() / sum(map(len, each))
        top = right.log().mean().exp()
        sums[2] = sums[2] - torch.log(top / (top + sum(p.log().mean().exp() for p in each)))
    return theirs, sums


def test_the_losses_are_the_papers_equations(base: Model) -> None:
    asked = [ASKED[0], {"question": "sky?", "choices": ["sun", "red rose", "moon", "sky"], "answer": "sky"}]
    data = rows.read(asked)
    encoded = encode_choices(data, base.words, 99).rows
    assert [len(row.choices) for row in encoded] == [3, 4]  # the second one's prompt is asked as benchmarks do it
    asked[1] = {"prompt": "Question: sky?\nAnswer:", "choices": asked[1]["choices"], "answer": 3}
    theirs, (lm, ul, ln) = by_the_paper(base, asked)
    for a, b in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.7, 0.3)):
        loss, count = choice_loss(base.network, encoded, unlikelihood=a, length_normalised=b)
        assert count == 2
        assert loss.item() == pytest.approx((lm + a * ul + b * ln).item(), rel=1e-5)
    parts = [lm.item(), ul.item(), ln.item()]
    assert min(abs(p - q) for i, p in enumerate(parts) for q in parts[:i]) > 0.05  # so none was taken for another
    only = encode_choices(data, base.words, 99, wrong=False).rows
    assert choice_loss(base.network, only)[0].item() == pytest.approx(lm.item(), rel=1e-5)

    (lm + 0.7 * ul + 0.3 * ln).backward()
    table = Full().trained(base.network, "x")["embed.tokens.weight"].requires_grad_()
    choice_loss(base.network, encoded, unlikelihood=0.7, length_normalised=0.3)[0].backward()
    assert table.grad is not None and theirs.transformer.wte.weight.grad is not None
    assert torch.allclose(table.grad, theirs.transformer.wte.weight.grad, atol=1e-5)
    table.requires_grad_(False).grad = None


def test_a_word_that_is_certain_has_a_finite_loss() -> None:
    head = Linear(2, 3, bias=False)
    with torch.no_grad():
        head.weight.values.copy_(torch.tensor([[80.0, 0.0], [0.0, 0.0], [0.0, 1.0]]))
    x = torch.tensor([[1.0, 0.0]], requires_grad=True)
    likely, unlikely = surprises(head, x, torch.tensor([0]), Step.of([1], Fresh()))
    assert likely.item() == 0.0 and unlikely.item() == pytest.approx(-80 + torch.tensor(2.0).log().item())
    assert torch.log1p(-likely.exp()).item() == -torch.inf  # what the equation gives as it stands
    unlikely.sum().backward()
    assert x.grad is not None and bool(x.grad.isfinite().all()) and x.grad[0, 0] < -79


def test_choices_are_learned_and_scored(base: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "asked.jsonl", tmp_path / "run"
    data.write_text("".join(json.dumps(row) + "\n" for row in ASKED))
    before = gu.evaluate(base, data, metrics=["acc_norm"]).scores[0].value
    words = ["finetune", str(base.origin.path), f"--data={data}", f"--out={out}", "--unlikelihood=1", "--rank=4"]
    words += ["--length-normalised=1", "--steps=60", "--learning-rate=0.01", "--precision=float32", "--targets=all"]
    assert main([*words, "--dry-run"]) == 0
    assert "23 rows" in capsys.readouterr().err and not out.exists()
    assert main(words) == 0
    assert f"try: groundup evaluate {out}" in capsys.readouterr().out
    assert json.loads((out / "run.json").read_text())["objective"] == "choices + 1 unlikelihood + 1 length-normalised"
    after = gu.evaluate(gu.load(out), data, metrics=["acc_norm"]).scores[0].value
    assert before < 0.7 < 0.95 <= after


def test_the_wrong_choices_are_read_only_where_they_count(base: Model) -> None:
    data = rows.read(ASKED)
    plain, both = choose(base), choose(base, length_normalised=1)
    assert {len(row.choices) for row in plain.encode(data, base.words, 99).rows} == {1}
    assert {len(row.choices) for row in both.encode(data, base.words, 99).rows} == {3}


def test_what_these_rows_do_not_have_is_refused(base: Model, tmp_path: Path) -> None:
    lora = gu.adapt(base, gu.LoRA())
    text = [{"text": "sky and sun"}] * 3
    for given, data, told in (
        ({"unlikelihood": 1.0}, text, "of rows with choices"),
        (
            {"length_normalised": 1.0},
            [{"text": "sun", "label": "a"}, {"text": "sky", "label": "b"}],
            "of rows with cho",
        ),
        ({"unlikelihood": -1.0}, ASKED, "weight of 0 or more"),
        ({"auxiliary": 1.0}, ASKED, "of rows with labels"),
        ({"label_smoothing": 0.1}, ASKED, "label_smoothing"),
    ):
        with pytest.raises(UsageError, match=told):
            gu.finetune(lora, data, out=tmp_path / "no", **given)
    held = tmp_path / "text.jsonl"
    held.write_text('{"text": "sun"}\n')
    with pytest.raises(UsageError, match="learns choices. It takes the kinds choices"):
        gu.finetune(lora, ASKED, validation=held, out=tmp_path / "no")
    assert not (tmp_path / "no").exists()
