"""Masks are filled as transformers' own pipeline fills them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import groundup as gu
from groundup.core.errors import UsageError
from interpret.worded import write_bert, write_roberta

ONE = "paris is the [MASK] of france."
TWO = "the [MASK] sat on the [MASK]."


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, gu.Model]:
    folder = tmp_path_factory.mktemp("bert")
    write_bert(folder)
    return transformers.pipeline("fill-mask", model=str(folder), device="cpu"), gu.load(folder)


def test_one_mask(made: tuple[Any, gu.Model]) -> None:
    oracle, model = made
    want = oracle(ONE, top_k=7)
    got = model.fill(ONE, top=7)
    assert [word for word, _ in got] == [w["token_str"] for w in want]
    assert [share for _, share in got] == pytest.approx([w["score"] for w in want], rel=1e-4)
    assert sum(share for _, share in model.fill(ONE, top=56)) == pytest.approx(1.0)
    other = model.fill("paris is the [MASK] of water.", top=7)
    assert [s for _, s in other] != pytest.approx([s for _, s in got], rel=1e-3), "what stands around it must count"


def test_two_masks_and_a_separator_that_is_meant(made: tuple[Any, gu.Model]) -> None:
    oracle, model = made
    for text in (TWO, "the king. [SEP] the [MASK] of [MASK]"):
        want, got = oracle(text, top_k=4), model.fill(text, top=4)
        assert len(got) == len(want) == 2
        for mine, theirs in zip(got, want, strict=True):
            assert [word for word, _ in mine] == [w["token_str"] for w in theirs]
            assert [share for _, share in mine] == pytest.approx([w["score"] for w in theirs], rel=1e-4)
    assert len(model.fill(TWO)[0]) == 5


def test_a_roberta_fills_its_own_mask(tmp_path: Path) -> None:
    write_roberta(tmp_path)
    oracle, model = transformers.pipeline("fill-mask", model=str(tmp_path), device="cpu"), gu.load(tmp_path)
    for text in ("the king sat on the <mask>.", "the<mask> sat on the mat."):
        want, got = oracle(text, top_k=7), model.fill(text, top=7)
        assert [word for word, _ in got] == [w["token_str"] for w in want]
        assert [share for _, share in got] == pytest.approx([w["score"] for w in want], rel=1e-4)
    with pytest.raises(UsageError, match="write <mask> in the text"):
        model.fill("the king.")
    with pytest.raises(UsageError, match="33 tokens, .* reads 31"):
        model.fill("<mask>" * 31)


def test_what_cannot_be_filled_is_said(made: tuple[Any, gu.Model], tmp_path: Path) -> None:
    _, model = made
    with pytest.raises(UsageError, match=r"write \[MASK\] in the text"):
        model.fill("paris is the capital of france.")
    with pytest.raises(UsageError, match="top=0"):
        model.fill(ONE, top=0)
    with pytest.raises(UsageError, match="56 words"):
        model.fill(ONE, top=57)
    with pytest.raises(UsageError, match="42 tokens, .* reads 31"):
        model.fill("[MASK] " * 40)
    write_bert(tmp_path / "headless", kind="BertModel")
    with pytest.raises(UsageError, match="no masked-word head"):
        gu.load(tmp_path / "headless").fill(ONE)
    decoder = gu.build(gu.models.gpt2.Config(n_embd=8, n_layer=1, n_head=2, vocab_size=56))
    with pytest.raises(UsageError, match="gpt2.* was not made to fill masks"):
        gu.Model(**{**vars(decoder), "tokenizer": model.tokenizer}).fill(ONE)


def test_each_mask_is_told_with_the_other_unfilled(made: tuple[Any, gu.Model]) -> None:
    _, model = made
    ids = torch.tensor(model.encode("the cat sat on the mat."))
    first = model.fill("the [MASK] sat on the mat.", top=1)
    both = model.fill(TWO, top=1)
    assert len(ids) > 5 and first[0][1] != pytest.approx(both[0][0][1], rel=1e-3)
