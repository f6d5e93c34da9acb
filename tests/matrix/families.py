"""Tiny random checkpoints of every family, and their logits: what the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import groundup as gu
from groundup import models
from groundup.model import Model
from groundup.nn.cache import Fresh, Slots
from groundup.nn.stack import EncoderDecoder
from groundup.peft.front import lay

IDS = {"vocab_size": 97, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 35, "n_layer": 2, "n_head": 5, "n_positions": 64}),
    "llama": (
        "LlamaForCausalLM",
        {"hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2,
         "intermediate_size": 37, "max_position_embeddings": 64},
    ),
    "bloom": ("BloomForCausalLM", {"hidden_size": 30, "n_layer": 2, "n_head": 6}),
    "mpt": ("MptForCausalLM", {"d_model": 35, "n_layers": 2, "n_heads": 5, "max_seq_len": 64}),
    "gpt_neox": (
        "GPTNeoXForCausalLM",
        {"hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 41,
         "max_position_embeddings": 64},
    ),
    "openai-gpt": ("OpenAIGPTLMHeadModel", {"n_embd": 35, "n_layer": 2, "n_head": 5, "n_positions": 64}),
    "mistral": (
        "MistralForCausalLM",
        {"hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2,
         "intermediate_size": 37, "max_position_embeddings": 64, "sliding_window": 4},
    ),
    "mixtral": (
        "MixtralForCausalLM",
        {"hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2,
         "intermediate_size": 37, "max_position_embeddings": 64, "num_local_experts": 3, "num_experts_per_tok": 2},
    ),
    "qwen2": (
        "Qwen2ForCausalLM",
        {"hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2,
         "intermediate_size": 37, "max_position_embeddings": 64},
    ),
    "qwen3": (
        "Qwen3ForCausalLM",
        {"hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 8,
         "intermediate_size": 37, "max_position_embeddings": 64},
    ),
    "gemma": (
        "GemmaForCausalLM",
        {"hidden_size": 35, "num_hidden_layers": 2, "num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 8,
         "intermediate_size": 37, "max_position_embeddings": 64},
    ),
    "gemma2": (
        "Gemma2ForCausalLM",
        {"hidden_size": 35, "num_hidden_layers": 2, "num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 8,
         "intermediate_size": 37, "max_position_embeddings": 64, "sliding_window": 4, "query_pre_attn_scalar": 7},
    ),
    "bert": (
        "BertForMaskedLM",
        {"hidden_size": 35, "num_hidden_layers": 2, "num_attention_heads": 5, "intermediate_size": 41},
    ),
    "roberta": (
        "RobertaForMaskedLM",
        {"hidden_size": 35, "num_hidden_layers": 2, "num_attention_heads": 5, "intermediate_size": 41,
         "max_position_embeddings": 64},
    ),
    "distilbert": ("DistilBertForMaskedLM", {"dim": 35, "n_layers": 2, "n_heads": 5, "hidden_dim": 41}),
    "t5": (
        "T5ForConditionalGeneration",
        {"d_model": 35, "d_kv": 6, "d_ff": 41, "num_layers": 2, "num_heads": 5, "decoder_start_token_id": 0},
    ),
    "switch_transformers": (
        "SwitchTransformersForConditionalGeneration",
        {"d_model": 35, "d_kv": 6, "d_ff": 41, "num_layers": 2, "num_heads": 5, "decoder_start_token_id": 0, "num_experts": 2,
         "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
    ),
    "transformer": (  # no reference has it: ours writes its own file
        "", {"d_model": 35, "num_heads": 5, "d_ff": 41, "encoder_layers": 2, "decoder_layers": 2, "vocab_size": 97},
    ),
}  # fmt: skip
ENCODERS = {"bert", "distilbert", "roberta"}
TWO_HALVES = {"switch_transformers", "t5", "transformer"}
LENGTHS = (5, 11, 1, 7)

# Families of the very parts of another one, whose laws are watched by the slower run alone.
KIN = {"mistral", "qwen2", "gemma", "roberta", "distilbert", "openai-gpt"}
MATRIX = [pytest.param(family, marks=pytest.mark.slow) if family in KIN else family for family in FAMILIES]


def written(new_folder: Callable[[str], Path]) -> Callable[[str], Path]:
    """A tiny random checkpoint of each family, written by the reference library where that has it."""
    kept: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in kept:
            name, config = FAMILIES[family]
            ours = None if name else gu.build(getattr(models, family).Config(**config))
            made = (
                ours.network
                if ours is not None
                else getattr(transformers, name)(transformers.AutoConfig.for_model(family, **IDS, **config))
            )
            generator = torch.Generator().manual_seed(1)
            for place, parameter in made.named_parameters():
                gain = parameter.ndim == 1 and place.endswith("weight")
                parameter.data = torch.randn(parameter.shape, generator=generator) * 0.25 + gain
            kept[family] = new_folder(family)
            if ours is not None:
                gu.save(ours, kept[family] / "model")
                kept[family] /= "model"
            else:
                made.save_pretrained(kept[family])
        return kept[family]

    return make


def rows(seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 97, (sum(LENGTHS),), generator=torch.Generator().manual_seed(seed))


def call(model: Model, adapters: str | None | Sequence[str | None], *, kept: bool = False) -> torch.Tensor:
    """Logits of the same ragged rows, for any family: in one call, or (kept) in a cache with rows of their own."""
    network, parts = model.network, rows().split(LENGTHS)
    ids = [r.tolist() for r in parts]
    cache = Slots(len(ids), 64) if kept else Fresh()
    how: dict[str, Any] = {"adapters": adapters, "device": model.device}
    if isinstance(network, EncoderDecoder):
        x, step, _ = lay(network, ids, Fresh(), half="encoder", **how)
        memory = network.encode(x, step)
        ids = [r.tolist() for r in rows(1).split(LENGTHS)]
        x, step, own = lay(network, ids, cache, memory=memory, half="decoder", **how)
    else:
        x, step, own = lay(network, ids, cache, **how)
    out = network(x, step)
    return torch.cat([out[begin : begin + len(row)] for begin, row in zip(own, ids, strict=True)])


def logits(model: Model, adapters: Any = "as it is", *, kept: bool = False) -> torch.Tensor:
    with torch.no_grad():
        return call(model, model.adapter if adapters == "as it is" else adapters, kept=kept)


def stirred(model: Model, name: str = "mine", seed: int = 7) -> Model:
    """An adapter far from its start."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.methods[name].trained(model.network, name).values():
        with torch.no_grad():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def close(ours: torch.Tensor, theirs: torch.Tensor, factor: float = 1.0) -> None:
    assert (ours - theirs).abs().max() <= 1e-5 * factor * max(1.0, float(theirs.abs().max()))
