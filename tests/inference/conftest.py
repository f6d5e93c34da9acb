"""Tiny random models of the reference library, and our networks loaded from their files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from groundup.checkpoints.load import load
from groundup.checkpoints.starters import fetch
from groundup.inputs.tokenizer import Tokenizer

Pair = tuple[nn.Module, Any]
IDS = {"vocab_size": 97, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LLAMA = {"hidden_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
GPT2 = {"n_embd": 35, "n_layer": 2, "n_head": 5, "n_positions": 64, "tie_word_embeddings": False}
BLOOM = {"hidden_size": 30, "n_layer": 2, "n_head": 6, "tie_word_embeddings": False}
BERT = {"hidden_size": 35, "num_hidden_layers": 2, "num_attention_heads": 5, "intermediate_size": 41}
T5 = {"d_model": 35, "d_kv": 6, "d_ff": 41, "num_layers": 2, "num_heads": 5, "decoder_start_token_id": 0}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", IDS | LLAMA | {"intermediate_size": 37, "max_position_embeddings": 64}),
    "gpt2": ("GPT2LMHeadModel", IDS | GPT2),
    "bloom": ("BloomForCausalLM", IDS | BLOOM),
    "bert": ("BertForMaskedLM", IDS | BERT),
    "t5": ("T5ForConditionalGeneration", IDS | T5),
}


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    """`pair(family)` -> (the reference, our network with the same numbers), made once."""
    kept: dict[str, Pair] = {}

    def make(family: str) -> Pair:
        if family not in kept:
            name, config = MODELS[family]
            reference = getattr(transformers, name)(transformers.AutoConfig.for_model(family, **config)).eval()
            generator = torch.Generator().manual_seed(0)
            for place, parameter in reference.named_parameters():
                gain = parameter.ndim == 1 and place.endswith("weight")
                parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3 + gain
            folder: Path = tmp_path_factory.mktemp(family)
            reference.save_pretrained(folder)
            kept[family] = (reference, load(folder).network.eval())
        return kept[family]

    return make


@pytest.fixture
def draw_prompts() -> Callable[..., list[list[int]]]:
    def make(*lengths: int, seed: int = 3) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        return [torch.randint(3, 97, (n,), generator=generator).tolist() for n in lengths]

    return make


@pytest.fixture(scope="session")
def words() -> Tokenizer:
    """A real vocabulary of 49,152 tokens, a byte-level BPE."""
    from groundup.checkpoints.gguf import open_gguf

    return Tokenizer.from_gguf(open_gguf(fetch("smollm2-135m-instruct")).metadata)
