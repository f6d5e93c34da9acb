"""Llama (Touvron et al., arXiv 2302.13971): a decoder with rotary positions, RMSNorm before each half, a gated MLP.

Several query heads may share a key head (grouped queries). SmolLM2 is of this family.

    ids ── embed ──[ norm ─ attn ─(+)─ norm ─ mlp ─(+) ] × layers ── norm ── head ── logits
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from groundup.core.config import ANY, FamilyConfig
from groundup.core.errors import UsageError
from groundup.core.rules import Rules, rules
from groundup.nn.attention import Attention
from groundup.nn.block import Block, Branch
from groundup.nn.embed import Embed
from groundup.nn.linear import Embedding, Linear, tie
from groundup.nn.mlp import GatedMLP
from groundup.nn.norms import RMSNorm
from groundup.nn.positions import Rotary, frequencies, scaled_linear, scaled_llama3, scaled_yarn, yarn_temperature
from groundup.nn.stack import Decoder


class Config(FamilyConfig):
    """The public keys of a Llama `config.json`."""

    model_type: Literal["llama"] = "llama"
    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_parameters: dict[str, Any] | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = False

    IGNORED: ClassVar = {
        "attention_dropout": ANY,
        "rope_interleaved": (False,),
        "is_llama_config": ANY,
        "max_sequence_length": ANY,  # max_position_embeddings once more, in files of the first Llama
    }
    ARCHITECTURES = ("LlamaForCausalLM", "LlamaModel")

    @classmethod
    def prepare(cls, public: dict[str, Any]) -> dict[str, Any]:
        """Older files say `rope_theta` and `rope_scaling`; newer ones fold both into `rope_parameters`."""
        public = dict(public)
        theta, scaling = public.pop("rope_theta", None), public.pop("rope_scaling", None)
        rope = dict(public.get("rope_parameters") or scaling or {})
        if theta is not None:
            rope.setdefault("rope_theta", float(theta))
        if "type" in rope:
            rope.setdefault("rope_type", rope.pop("type"))
        public["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0} | rope
        return public

    @property
    def kv_heads(self) -> int:
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def width_of_head(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def context(self) -> int:
        return self.max_position_embeddings


def rotary(c: Config) -> Rotary:
    """The turning of positions with the scaling kind that the config names."""
    rope = dict(c.rope_parameters or {})
    base = float(rope.pop("rope_theta", 10000.0))
    kind = rope.pop("rope_type", "default")
    freqs = frequencies(c.width_of_head, base)
    original = int(rope.pop("original_max_position_embeddings", None) or c.max_position_embeddings)
    factor = float(rope.pop("factor", 1.0))
    temperature = 1.0
    if kind == "linear":
        freqs = scaled_linear(freqs, factor)
    elif kind == "llama3":
        low, high = float(rope.pop("low_freq_factor")), float(rope.pop("high_freq_factor"))
        freqs = scaled_llama3(freqs, factor=factor, low_freq_factor=low, high_freq_factor=high, original=original)
    elif kind == "yarn":
        given = rope.pop("attention_factor", None)
        temperature = yarn_temperature(factor) if given is None else float(given)
        freqs = scaled_yarn(
            freqs,
            factor=factor,
            base=base,
            head_dim=c.width_of_head,
            original=original,
            beta_fast=float(rope.pop("beta_fast", None) or 32),
            beta_slow=float(rope.pop("beta_slow", None) or 1),
            truncate=bool(rope.pop("truncate", True)),
        )
    elif kind != "default":
        raise UsageError(f"config.json: rope_type {kind!r} is not supported; supported: default, linear, llama3, yarn")
    if rope:
        raise UsageError(f"config.json: rope_parameters of kind {kind} have no key {', '.join(sorted(rope))}")
    return Rotary(freqs, factor=temperature)


def build(c: Config) -> Decoder:
    """The network of this config, with no numbers in it yet."""
    turning = rotary(c)

    def norm() -> RMSNorm:
        return RMSNorm(c.hidden_size, eps=c.rms_norm_eps)

    def block() -> Block:
        attention = Attention(
            c.hidden_size,
            heads=c.num_attention_heads,
            kv_heads=c.kv_heads,
            head_dim=c.width_of_head,
            causal=True,
            rotary=turning,
            bias=c.attention_bias,
        )
        mlp = GatedMLP(c.hidden_size, c.intermediate_size, act=c.hidden_act, bias=c.mlp_bias)
        return Block(Branch("attn", attention, before=norm()), Branch("mlp", mlp, before=norm()))

    tokens = Embedding(c.vocab_size, c.hidden_size)
    head = Linear(c.hidden_size, c.vocab_size, bias=False)
    if c.tie_word_embeddings:
        tie(head, tokens)
    return Decoder(Embed(tokens), [block() for _ in range(c.num_hidden_layers)], norm=norm(), head=head)


def hugging_face(c: Config) -> Rules:
    """Names in `model.safetensors`."""
    return rules(
        "embed_tokens.weight                        -> embed.tokens.weight",
        "layers.{i}.input_layernorm.weight          -> blocks.{i}.attn_norm.weight",
        "layers.{i}.self_attn.q_proj.weight         -> blocks.{i}.attn.q.weight",
        "layers.{i}.self_attn.k_proj.weight         -> blocks.{i}.attn.k.weight",
        "layers.{i}.self_attn.v_proj.weight         -> blocks.{i}.attn.v.weight",
        "layers.{i}.self_attn.o_proj.weight         -> blocks.{i}.attn.o.weight",
        "layers.{i}.self_attn.q_proj.bias           -> blocks.{i}.attn.q.bias",
        "layers.{i}.self_attn.k_proj.bias           -> blocks.{i}.attn.k.bias",
        "layers.{i}.self_attn.v_proj.bias           -> blocks.{i}.attn.v.bias",
        "layers.{i}.self_attn.o_proj.bias           -> blocks.{i}.attn.o.bias",
        "layers.{i}.post_attention_layernorm.weight -> blocks.{i}.mlp_norm.weight",
        "layers.{i}.mlp.gate_proj.weight            -> blocks.{i}.mlp.gate.weight",
        "layers.{i}.mlp.up_proj.weight              -> blocks.{i}.mlp.up.weight",
        "layers.{i}.mlp.down_proj.weight            -> blocks.{i}.mlp.down.weight",
        "layers.{i}.mlp.gate_proj.bias              -> blocks.{i}.mlp.gate.bias",
        "layers.{i}.mlp.up_proj.bias                -> blocks.{i}.mlp.up.bias",
        "layers.{i}.mlp.down_proj.bias              -> blocks.{i}.mlp.down.bias",
        "norm.weight                                -> norm.weight",
        "/lm_head.weight                            -> head.weight | tie(embed.tokens.weight)",
        "layers.{i}.self_attn.rotary_emb.inv_freq   -> ignore",
        prefix="model.",
    )


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
