"""Tiny random models of the reference library, and the way from their files to our networks and back.

Weights are drawn anew so that biases, gains and attention are far from trivial; sizes are distinct and odd where the
mathematics allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from groundup import models
from groundup.nn.cache import Fresh
from groundup.nn.stack import Encoder, EncoderDecoder
from groundup.nn.step import Memory, Step

VOCABULARY = 97
ENCODERS = ("bert", "distilbert", "roberta")


@dataclass(frozen=True)
class Case:
    """One odd config of one family. `untied`: the head gets numbers of its own though the config says tied."""

    name: str
    family: str
    reference: str
    config: dict[str, Any]
    untied: bool = False

    @property
    def module(self) -> ModuleType:
        return getattr(models, self.family)

    @property
    def causal(self) -> bool:
        return not self.two_halves and self.family not in ENCODERS

    @property
    def two_halves(self) -> bool:
        return self.family in ("t5", "switch_transformers")


def gpt2(name: str, width: int, layers: int, heads: int, **more: Any) -> Case:
    sizes = {"n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": 61}
    return Case(f"gpt2-{name}", "gpt2", "GPT2LMHeadModel", IDS | sizes | more)


def bert_like(
    family: str, reference: str, name: str, width: int, layers: int, heads: int, inner: int, types: int = 3, **more: Any
) -> Case:
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    sizes |= {"intermediate_size": inner, "max_position_embeddings": 61, "type_vocab_size": types}
    return Case(f"{family}-{name}", family, reference, IDS | sizes | more)


bert, roberta = partial(bert_like, "bert", "BertForMaskedLM"), partial(bert_like, "roberta", "RobertaForMaskedLM")


def distilbert(name: str, width: int, layers: int, heads: int, inner: int, **more: Any) -> Case:
    sizes = {"dim": width, "n_layers": layers, "n_heads": heads, "hidden_dim": inner, "max_position_embeddings": 61}
    return Case(f"distilbert-{name}", "distilbert", "DistilBertForMaskedLM", IDS | sizes | more)


def bloom(name: str, width: int, layers: int, heads: int, **more: Any) -> Case:
    sizes = {"hidden_size": width, "n_layer": layers, "n_head": heads}
    return Case(f"bloom-{name}", "bloom", "BloomForCausalLM", IDS | sizes | more)


def llama_like(
    family: str, name: str, width: int, layers: int, heads: int, kv_heads: int, inner: int, **more: Any
) -> Case:
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    sizes |= {"num_key_value_heads": kv_heads, "intermediate_size": inner, "max_position_embeddings": 61}
    return Case(f"{family}-{name}", family, f"{family.capitalize()}ForCausalLM", IDS | sizes | more)


llama, mistral, mixtral, qwen2, qwen3, gemma, gemma2 = (
    partial(llama_like, family) for family in ("llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma", "gemma2")
)


def mpt(name: str, width: int, layers: int, heads: int, **more: Any) -> Case:
    attention = {key: more.pop(key) for key in ("clip_qkv", "softmax_scale") if key in more}
    sizes = {"d_model": width, "n_layers": layers, "n_heads": heads, "max_seq_len": 61, "attn_config": attention}
    return Case(f"mpt-{name}", "mpt", "MptForCausalLM", IDS | sizes | more)


def neox(name: str, width: int, layers: int, heads: int, inner: int, **more: Any) -> Case:
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    sizes |= {"intermediate_size": inner, "max_position_embeddings": 61}
    return Case(f"neox-{name}", "gpt_neox", "GPTNeoXForCausalLM", IDS | sizes | more)


def gpt1(name: str, width: int, layers: int, heads: int, **more: Any) -> Case:
    sizes = {"n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": 61}
    return Case(f"openai-gpt-{name}", "openai-gpt", "OpenAIGPTLMHeadModel", IDS | sizes | more)


def t5(
    name: str, width: int, layers: int, heads: int, head: int, inner: int, untied: bool = False, **more: Any
) -> Case:
    sizes = {"d_model": width, "num_layers": layers, "num_heads": heads, "d_kv": head, "d_ff": inner}
    buckets = {"relative_attention_num_buckets": 10, "relative_attention_max_distance": 13}
    return Case(f"t5-{name}", "t5", "T5ForConditionalGeneration", IDS | buckets | sizes | more, untied)


def switch(name: str, width: int, layers: int, heads: int, head: int, inner: int, **more: Any) -> Case:
    sizes = {"d_model": width, "num_layers": layers, "num_heads": heads, "d_kv": head, "d_ff": inner}
    buckets = {"relative_attention_num_buckets": 10, "relative_attention_max_distance": 13}
    reference = "SwitchTransformersForConditionalGeneration"
    return Case(f"switch-{name}", "switch_transformers", reference, IDS | buckets | sizes | more)


# Token ids are named so that the reference does not warn of its defaults, which lie outside so small a vocabulary.
IDS = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LINEAR = {"rope_type": "linear", "rope_theta": 700.0, "factor": 3.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SHORT = {"rope_theta": 500.0, "original_max_position_embeddings": 16}
CAPPED = {
    "final_logit_softcapping": 2.0,
    "attn_logit_softcapping": 0.8,
    "layer_types": ["full_attention", "sliding_attention"],
}
UNCAPPED = {"final_logit_softcapping": None, "attn_logit_softcapping": None, "sliding_window": 2}
UPPER = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}  # all but the first layer
V11 = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
FAR = {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128}

CASES = [
    gpt2("plain", 35, 3, 5),
    gpt2("inner", 33, 2, 3, n_inner=47, activation_function="relu", layer_norm_epsilon=3e-3),
    gpt2("by-layer", 21, 3, 7, scale_attn_by_inverse_layer_idx=True, tie_word_embeddings=False),
    gpt2("unscaled", 15, 1, 1, scale_attn_weights=False),
    bert("plain", 35, 3, 5, 41),
    bert("relu", 33, 2, 3, 27, hidden_act="relu", layer_norm_eps=2e-3),
    bert("untied", 21, 1, 7, 50, types=2, tie_word_embeddings=False),
    roberta("plain", 35, 3, 5, 41, types=1, pad_token_id=1),
    roberta("relu", 33, 2, 3, 27, hidden_act="relu", layer_norm_eps=2e-3, pad_token_id=5),
    roberta("untied", 21, 1, 7, 50, types=2, tie_word_embeddings=False),  # padding is 0: places begin at 1
    distilbert("plain", 35, 3, 5, 41),
    distilbert("relu", 33, 2, 3, 27, activation="relu"),
    distilbert("untied", 21, 1, 7, 50, tie_word_embeddings=False),
    bloom("4-heads", 28, 2, 4),
    bloom("6-heads", 30, 3, 6),
    bloom("5-heads-normed", 35, 2, 5, apply_residual_connection_post_layernorm=True, layer_norm_epsilon=2e-3),
    bloom("11-heads-untied", 33, 2, 11, tie_word_embeddings=False),
    llama("grouped", 42, 3, 6, 2, 37, head_dim=10),
    llama("one-key", 30, 2, 5, 1, 47, attention_bias=True, mlp_bias=True, rms_norm_eps=2e-3, tie_word_embeddings=True),
    llama("llama3", 42, 2, 3, 3, 29, rope_parameters=LLAMA3 | SHORT),
    llama("yarn", 36, 2, 3, 1, 31, rope_parameters={"rope_type": "yarn", "factor": 4.0} | SHORT),
    llama("linear", 20, 2, 2, 2, 31, hidden_act="gelu", rope_parameters=LINEAR),
    mistral("window", 42, 3, 6, 2, 37, sliding_window=4, head_dim=10),
    mistral("window-1", 30, 2, 5, 5, 47, sliding_window=1, rms_norm_eps=2e-3),
    mixtral("plain", 36, 3, 6, 2, 37, num_local_experts=5, num_experts_per_tok=2),
    mixtral(
        "one", 30, 2, 5, 5, 31, num_local_experts=3, num_experts_per_tok=1, sliding_window=3, tie_word_embeddings=True
    ),
    mixtral("every", 30, 1, 3, 1, 31, num_local_experts=3, num_experts_per_tok=3),
    mistral("whole", 36, 2, 3, 1, 31, sliding_window=None, tie_word_embeddings=True),
    qwen2("plain", 42, 2, 3, 1, 37),
    qwen2("upper-window", 30, 3, 5, 5, 47, **UPPER),
    qwen2("tied", 36, 2, 6, 2, 31, tie_word_embeddings=True, rms_norm_eps=2e-3, use_sliding_window=False),
    qwen3("plain", 42, 2, 3, 1, 37, head_dim=10),
    qwen3("upper-window", 30, 3, 5, 5, 47, head_dim=14, attention_bias=True, **UPPER),
    qwen3("tied", 35, 2, 4, 2, 31, head_dim=6, tie_word_embeddings=True, rms_norm_eps=2e-3),
    gemma("plain", 35, 3, 5, 1, 37, head_dim=10),
    gemma("untied", 30, 2, 3, 3, 47, head_dim=6, tie_word_embeddings=False, attention_bias=True, rms_norm_eps=2e-3),
    gemma("first-files", 21, 2, 4, 2, 31, head_dim=8, hidden_act="gelu"),
    gemma2("plain", 35, 3, 5, 1, 37, head_dim=10, sliding_window=4, query_pre_attn_scalar=7),
    gemma2("named", 30, 2, 3, 3, 47, head_dim=6, sliding_window=3, attention_bias=True, rms_norm_eps=2e-3, **CAPPED),
    gemma2("uncapped", 21, 2, 7, 7, 31, head_dim=8, tie_word_embeddings=False, **UNCAPPED),
    mpt("5-heads", 35, 3, 5),
    mpt("clipped", 28, 2, 4, clip_qkv=0.7),
    mpt("11-heads", 33, 2, 11, softmax_scale=0.21, tie_word_embeddings=False, layer_norm_epsilon=2e-3),
    neox("parallel", 42, 3, 3, 37),  # 3 of 14 numbers of a head: an odd share, of which 4 turn
    neox("in-turn", 60, 2, 5, 47, use_parallel_residual=False, rotary_pct=0.5, layer_norm_eps=2e-3, hidden_act="relu"),
    neox("no-biases", 30, 2, 3, 29, attention_bias=False, rotary_pct=1.0, rotary_emb_base=500),
    neox("tied", 24, 2, 3, 29, tie_word_embeddings=True),
    gpt1("plain", 35, 3, 5),
    gpt1("relu", 33, 2, 3, afn="relu", layer_norm_epsilon=2e-3),
    gpt1("silu-untied", 21, 2, 7, afn="silu", tie_word_embeddings=False),
    switch("plain", 35, 3, 5, 6, 41, num_experts=4, num_sparse_encoder_layers=1, num_sparse_decoder_layers=1),
    switch(
        "all-sparse",
        21,
        2,
        7,
        9,
        29,
        num_experts=3,
        num_sparse_encoder_layers=2,
        num_sparse_decoder_layers=1,
        router_bias=True,
    ),
    switch("dense", 21, 2, 3, 5, 29, num_experts=3, num_sparse_encoder_layers=0, num_sparse_decoder_layers=2),
    t5("first", 35, 3, 5, 6, 41),
    t5("gated-untied", 33, 2, 3, 7, 29, untied=True, num_decoder_layers=3, **V11),
    t5("silu", 21, 2, 7, 9, 51, num_decoder_layers=1, feed_forward_proj="gated-silu", layer_norm_epsilon=2e-3, **FAR),
]


def redraw(model: nn.Module, seed: int = 0, score_scale: float = 1.0) -> None:
    """Every number anew: matrices and biases with deviation 0.3, gains around 1.

    score_scale: on the queries' matrices, for T5: it keeps the scale of the scores there, and without it attention
    would pick one key and pass float32's noise on enlarged.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        drawn = torch.randn(parameter.shape, generator=generator) * 0.3
        gain = parameter.ndim == 1 and name.endswith("weight")
        drawn = drawn * score_scale if name.endswith(".q.weight") else drawn
        parameter.data = (drawn + 1 if gain else drawn).to(parameter.dtype)


def write_reference(case: Case, folder: Path) -> nn.Module:
    """The oracle, and its files as it writes them."""
    config = transformers.AutoConfig.for_model(case.family, **case.config)
    model = getattr(transformers, case.reference)(config).eval()
    if case.family == "mixtral":
        model.set_experts_implementation("eager")  # the fast one wants widths that are whole lines of 16 bytes
    if case.untied:
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.clone())
    redraw(model, score_scale=case.config["d_kv"] ** -0.5 if case.two_halves else 1.0)
    model.save_pretrained(folder)
    return model


@dataclass(frozen=True)
class InMemory:
    """A file's tensors without the file."""

    tensors: dict[str, Tensor]
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return list(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        return self.tensors[name].dtype

    def read(self, name: str) -> Tensor:
        return self.tensors[name].clone()

    def fingerprint(self) -> str:
        return "in memory"


@dataclass(frozen=True)
class Rows:
    """What every arm computes: rows of ids, for BERT their types, for T5 what the encoder reads."""

    ids: tuple[Tensor, ...]
    types: tuple[Tensor, ...]
    sources: tuple[Tensor, ...]

    @property
    def lengths(self) -> list[int]:
        return [len(i) for i in self.ids]


def draw_rows(case: Case, lengths: Sequence[int], sources: Sequence[int], seed: int = 1) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    kinds = case.config.get("type_vocab_size", 1)
    ids = tuple(torch.randint(VOCABULARY, (n,), generator=generator) for n in lengths)
    if case.family == "roberta":  # the reference gives padding no place, and no row of ours has any
        ids = tuple(torch.where(i == case.config["pad_token_id"], 9, i) for i in ids)
    return Rows(
        ids,
        tuple(torch.randint(kinds, (n,), generator=generator) for n in lengths),
        tuple(torch.randint(VOCABULARY, (n,), generator=generator) for n in sources),
    )


@torch.no_grad()
def expected(case: Case, model: nn.Module, rows: Rows) -> list[Tensor]:
    """The oracle's logits [L, V], row by row."""
    out = []
    for ids, types, source in zip(rows.ids, rows.types, rows.sources, strict=True):
        if case.two_halves:
            out.append(model(input_ids=source[None], decoder_input_ids=ids[None]).logits[0])
        elif "type_vocab_size" in case.config:
            out.append(model(input_ids=ids[None], token_type_ids=types[None]).logits[0])
        else:
            out.append(model(input_ids=ids[None]).logits[0])
    return out


def step_of(case: Case, network: Any, rows: Rows, cache: Any, which: Sequence[int], **how: Any) -> Step:
    """The `Step` of a call in which the rows `which` join whole; T5's encoder runs first, on ragged rows of its own."""
    lengths = [len(rows.ids[i]) for i in which]
    if isinstance(network, EncoderDecoder):
        how["memory"] = memory_of(network, [rows.sources[i] for i in which])
    if isinstance(network, Encoder):
        how["types"] = torch.cat([rows.types[i] for i in which])
    return Step.of(lengths, cache, **how)


def memory_of(network: EncoderDecoder, sources: Sequence[Tensor]) -> Memory:
    return network.encode(torch.cat(list(sources)), Step.of([len(s) for s in sources], Fresh()))
