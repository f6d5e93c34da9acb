"""Texts as vectors: a real model against transformers and its mean, and every way of pooling on tiny ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers

import groundup as gu
from groundup.core.errors import UsageError
from groundup.inference.embed import cut, embed, sentences
from interpret.worded import write_bert
from parity.oracles import CASES, write_reference

TEXTS = ["The cat sat on the mat.", "A cat is sitting on a rug.", "Shares fell after the bank's report.", "naïve 東京"]


def pooled(reference: Any, tokenizer: Any, texts: list[str], limit: int) -> torch.Tensor:
    """Mean over the tokens that are real, as the model's card has it."""
    given = tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="pt")
    with torch.no_grad():
        x = reference(**given).last_hidden_state
    real = given["attention_mask"][..., None]
    return F.normalize((x * real).sum(1) / real.sum(1))


@pytest.mark.timeout(600)
def test_the_starter_gives_the_references_vectors(starter: Callable[[str], Path]) -> None:
    folder = starter("all-minilm-l6-v2")
    reference = transformers.BertModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = gu.load(folder)
    got = model.embed(TEXTS, batch=3)
    torch.testing.assert_close(got, pooled(reference, tokenizer, TEXTS, 256), rtol=0, atol=1e-5)
    near = got @ got.T
    assert near[0, 1] > 0.5 > near[0, 2] and near[0, 1] > near[1, 2]
    first = model.embed(TEXTS, pooling="first")
    assert (first - got).abs().max() > 0.01, "another pooling gives other vectors"

    long = ["word " * 400, "short"]
    with pytest.raises(UsageError, match="text 1 has 402 tokens, .* reads 256"):
        model.embed(long)
    cut_off = model.embed(long, truncate=True)
    torch.testing.assert_close(cut_off, pooled(reference, tokenizer, long, 256), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2-plain", "llama-grouped", "t5-first"])
def test_decoders_and_encoder_decoders(name: str, tmp_path: Path) -> None:
    case = next(c for c in CASES if c.name == name)
    reference = write_reference(case, tmp_path)
    model = gu.load(tmp_path)
    rows = [[5, 9, 3], [88, 4, 17, 60, 7], [12]]
    part = reference.encoder if case.two_halves else reference.base_model
    with torch.no_grad():
        want = [part(input_ids=torch.tensor([r])).last_hidden_state[0] for r in rows]
    for pooling, pick in (("mean", lambda x: x.mean(0)), ("first", lambda x: x[0]), ("last", lambda x: x[-1])):
        got = embed(model.network, rows, pooling=pooling, batch=2)
        torch.testing.assert_close(got, F.normalize(torch.stack([pick(x) for x in want])), rtol=0, atol=3e-5)


def test_a_model_pools_as_it_was_made_to(tmp_path: Path) -> None:
    write_bert(tmp_path / "bert")
    bert = gu.load(tmp_path / "bert")
    texts = ["the cat", "the king of france", "paris"]
    torch.testing.assert_close(bert.embed(texts), bert.embed(texts, pooling="mean"), rtol=0, atol=0)
    blank = gu.build(gu.models.gpt2.Config(n_embd=8, n_layer=1, n_head=2, vocab_size=56), std=0.3)
    decoder = gu.Model(**{**vars(blank), "tokenizer": bert.tokenizer})
    torch.testing.assert_close(decoder.embed(texts), decoder.embed(texts, pooling="last"), rtol=0, atol=0)
    assert bert.embed("the cat").shape == (1, 30)
    told: list[tuple[int, int]] = []
    bert.embed(texts, batch=2, on_rows=lambda done, of: told.append((done, of)))
    assert told == [(2, 3), (3, 3)]


def say(folder: Path, **modes: bool) -> None:
    """The files of the sentence-transformers library."""
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modules = [{"path": "", "type": "sentence_transformers.models.Transformer"}]
    modules.append({"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"})
    (folder / "modules.json").write_text(json.dumps(modules))
    config = {"word_embedding_dimension": 30, **{f"pooling_mode_{name}": on for name, on in modes.items()}}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))


def test_the_folder_says_how_to_pool(tmp_path: Path) -> None:
    write_bert(tmp_path)
    texts = ["the cat", "the king of france"]
    say(tmp_path, cls_token=True, mean_tokens=False)
    model = gu.load(tmp_path)
    torch.testing.assert_close(model.embed(texts), model.embed(texts, pooling="first"), rtol=0, atol=0)
    say(tmp_path, max_tokens=True)
    with pytest.raises(UsageError, match="pooling by max_tokens is not supported"):
        model.embed(texts)
    (tmp_path / "modules.json").write_text(json.dumps([{"path": "2", "type": "sentence_transformers.models.Dense"}]))
    with pytest.raises(UsageError, match="names a Dense step"):
        model.embed(texts)
    (tmp_path / "modules.json").unlink()
    assert sentences(tmp_path).pooling is None


def test_lower_case_and_the_limit_of_the_folder(tmp_path: Path) -> None:
    write_bert(tmp_path)
    say(tmp_path, mean_tokens=True)
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 7, "do_lower_case": true}')
    said = sentences(tmp_path)
    assert (said.pooling, said.limit, said.lower) == ("mean", 7, True)
    model = gu.load(tmp_path)
    with pytest.raises(UsageError, match="text 2 has 8 tokens, .* reads 7"):
        model.embed(["the cat", "the cat sat on the mat"])
    torch.testing.assert_close(
        model.embed("the cat sat on the mat", truncate=True), model.embed("the cat sat on the"), rtol=0, atol=0
    )


def test_what_has_no_vector_is_said(tmp_path: Path) -> None:
    write_bert(tmp_path)
    model = gu.load(tmp_path)
    with pytest.raises(UsageError, match="0 texts"):
        model.embed([])
    with pytest.raises(UsageError, match="32 texts|0 at a time"):
        model.embed(["the cat"], batch=0)
    with pytest.raises(UsageError, match="text 2 has no tokens"):
        embed(model.network, [[1], []])


def test_cutting_keeps_the_frame() -> None:
    assert cut([1, 5, 6, 7, 2], 4, frame=[1, 2]) == [1, 5, 6, 2]
    assert cut([1, 5, 6, 7], 3, frame=[1]) == [1, 5, 6]
    assert cut([5, 6, 7], 2, frame=[]) == [5, 6]
    assert cut([1, 5, 2], 4, frame=[1, 2]) == [1, 5, 2]
