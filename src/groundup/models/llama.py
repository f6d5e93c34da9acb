"""Llama (Touvron et al., arXiv 2302.13971): a decoder with rotary positions, RMSNorm before each half, a gated MLP.

Several query heads may share a key head (grouped queries). SmolLM2 is of this family.

    ids ── embed ──[ norm ─ attn ─(+)─ norm ─ mlp ─(+) ] × layers ── norm ── head ── logits
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from groundup.core.config import ANY
from groundup.core.errors import UsageError
from groundup.core.rules import Rules, rules
from groundup.models.llama_like import LABELS, LlamaLike, decoder, hugging_face
from groundup.nn.stack import Decoder

__all__ = ["LABELS", "Config", "build", "config_from_gguf", "gguf", "hugging_face"]


class Config(LlamaLike):
    """The public keys of a Llama `config.json`."""

    model_type: Literal["llama"] = "llama"
    attention_bias: bool = False
    mlp_bias: bool = False

    IGNORED: ClassVar = {
        **LlamaLike.IGNORED,
        "rope_interleaved": (False,),
        "is_llama_config": ANY,
        "max_sequence_length": ANY,  # max_position_embeddings once more, in files of the first Llama
    }
    ARCHITECTURES = ("LlamaForCausalLM", "LlamaModel")


def build(c: Config) -> Decoder:
    """The network of this config, with no numbers in it yet."""
    return decoder(c, attention=lambda layer: {"bias": c.attention_bias}, mlp_bias=c.mlp_bias)


def gguf(c: Config) -> Rules:
    """Names in a `.gguf`; q and k are stored with neighbouring pairs."""
    return rules(
        "token_embd.weight            -> embed.tokens.weight",
        "blk.{i}.attn_norm.weight     -> blocks.{i}.attn_norm.weight",
        f"blk.{{i}}.attn_q.weight     -> blocks.{{i}}.attn.q.weight | rotary({c.num_attention_heads})",
        f"blk.{{i}}.attn_k.weight     -> blocks.{{i}}.attn.k.weight | rotary({c.kv_heads})",
        "blk.{i}.attn_v.weight        -> blocks.{i}.attn.v.weight",
        "blk.{i}.attn_output.weight   -> blocks.{i}.attn.o.weight",
        "blk.{i}.ffn_norm.weight      -> blocks.{i}.mlp_norm.weight",
        "blk.{i}.ffn_gate.weight      -> blocks.{i}.mlp.gate.weight",
        "blk.{i}.ffn_up.weight        -> blocks.{i}.mlp.up.weight",
        "blk.{i}.ffn_down.weight      -> blocks.{i}.mlp.down.weight",
        "output_norm.weight           -> norm.weight",
        "output.weight                -> head.weight | tie(embed.tokens.weight)",
        "rope_freqs.weight            -> ignore",
    )


def config_from_gguf(m: dict[str, Any], tensors: set[str]) -> Config:
    """The config that a `.gguf`'s metadata spell out."""
    heads, width = m["llama.attention.head_count"], m["llama.embedding_length"]
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": float(m.get("llama.rope.freq_base", 10000.0))}
    kind = m.get("llama.rope.scaling.type", "none")
    if kind == "linear":
        rope |= {"rope_type": "linear", "factor": float(m["llama.rope.scaling.factor"])}
    elif kind != "none" or "rope_freqs.weight" in tensors:
        raise UsageError(f"this .gguf scales its rotary positions ({kind}, or a table); load the Hugging Face folder")
    return Config(
        vocab_size=len(m["tokenizer.ggml.tokens"]),
        hidden_size=width,
        intermediate_size=m["llama.feed_forward_length"],
        num_hidden_layers=m["llama.block_count"],
        num_attention_heads=heads,
        num_key_value_heads=m.get("llama.attention.head_count_kv", heads),
        head_dim=m.get("llama.attention.key_length", width // heads),
        max_position_embeddings=m["llama.context_length"],
        rms_norm_eps=float(m["llama.attention.layer_norm_rms_epsilon"]),
        rope_parameters=rope,
        tie_word_embeddings="output.weight" not in tensors,
    )
