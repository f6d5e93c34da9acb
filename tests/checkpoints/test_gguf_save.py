"""Models as GGUF files: read again by us, by the package `gguf` and by transformers, with the same numbers and tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
import transformers

import groundup as gu
from tiny_models import TINY

TALK = [{"role": "user", "content": "Is it 12 345?"}]
TEXTS = ["The capital of France is", "a\n\n b  c 12345 don't", "naïve 日本語 😀 <|im_end|>", ""]


def facts(path: Path) -> dict[str, Any]:
    """All that a file says, with types, and the bytes of its tensors, as the package reads them."""
    reader = gguf.GGUFReader(path)
    said = {k: ([t.name for t in f.types], f.contents()) for k, f in reader.fields.items() if k[:5] != "GGUF."}
    held = {t.name: (t.tensor_type.name, t.shape.tolist(), t.data.tobytes()) for t in reader.tensors}
    return {"said": said, "held": held}


def apart(one: gu.Model, other: gu.Model) -> float:
    return max(float((one.logits(text) - other.logits(text)).abs().max()) for text in TEXTS[:3])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[torch.nn.Module, Path]]:
    done: dict[str, tuple[torch.nn.Module, Path]] = {}

    def make(name: str) -> tuple[torch.nn.Module, Path]:
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            done[name] = TINY[name].write(folder), folder
        return done[name]

    return make


@pytest.mark.parametrize("name", TINY)
def test_a_folder_becomes_a_file_with_the_same_numbers_and_tokens(name: str, made: Any, tmp_path: Path) -> None:
    oracle, folder = made(name)
    lm = gu.load(folder)
    out = gu.save(lm, tmp_path / "model.gguf")
    again = gu.load(out)
    assert apart(lm, again) == 0
    ids = torch.tensor([lm.tokenizer.encode(TEXTS[0])])
    with torch.inference_mode():
        assert torch.allclose(again.logits(TEXTS[0]), oracle(ids).logits[0], atol=1e-5)
    for text in TEXTS:
        for control in (False, True):
            assert again.tokenizer.encode(text, control=control) == lm.tokenizer.encode(text, control=control)
    assert again.tokenizer.chat(TALK) == lm.tokenizer.chat(TALK) and again.stop_ids == lm.stop_ids
    assert again.tokenizer.vocab_size == lm.tokenizer.vocab_size < again.config.vocab_size
    second = gu.save(again, tmp_path / "again.gguf")
    assert facts(second) == facts(out)


@pytest.mark.parametrize("name", ["llama", "llama-linear", "qwen2", "qwen3", "gpt2"])
def test_transformers_reads_the_same_logits(name: str, made: Any, tmp_path: Path) -> None:
    oracle, folder = made(name)
    gu.save(gu.load(folder), tmp_path / "model.gguf")
    config = transformers.AutoConfig.from_pretrained(folder)  # its reading leaves out scaling and a head's width
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", config=config).eval()
    ids = torch.arange(1, 30)[None]
    with torch.inference_mode():
        got, want = theirs(ids).logits, oracle(ids).logits
    assert torch.allclose(got, want, atol=1e-5)
    words = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    assert words(TEXTS[0])["input_ids"] == gu.load(folder).tokenizer.encode(TEXTS[0])
