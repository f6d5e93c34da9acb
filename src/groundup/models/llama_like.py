"""What Llama and the families that grew out of it share: the keys of their configs, the network, the names in files.

A family of this kind is a `Config` and a call of `decoder` that names what it does otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

from torch import nn

from groundup.core.config import ANY, FamilyConfig
from groundup.core.errors import UsageError
from groundup.core.labels import SCORES, Level, lines
from groundup.core.rules import Rules, rules
from groundup.nn.attention import Attention
from groundup.nn.block import Block, Branch
from groundup.nn.embed import Embed
from groundup.nn.linear import Embedding, Linear, tie
from groundup.nn.mlp import GatedMLP
from groundup.nn.norms import RMSNorm
from groundup.nn.positions import Rotary, frequencies, scaled_linear, scaled_llama3, scaled_yarn, yarn_temperature
from groundup.nn.stack import CappedHead, Decoder

LABELS: dict[Level, tuple[str, ...]] = {
    **SCORES,
    "token": ("/score.weight -> labels.weight", "/score.bias -> labels.bias"),
}


class LlamaLike(FamilyConfig):
    """The public keys that all of them have."""

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
    tie_word_embeddings: bool = False

    IGNORED: ClassVar[Mapping[str, Any]] = {"attention_dropout": ANY}

    @classmethod
    def prepare(cls, public: dict[str, Any]) -> dict[str, Any]:
        return with_rope_parameters(public)

    def to_public(self) -> dict[str, Any]:
        public = super().to_public()
        return {key: value for key, value in public.items() if key != "head_dim" or value is not None}

    @property
    def kv_heads(self) -> int:
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def width_of_head(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def context(self) -> int:
        return self.max_position_embeddings


def with_rope_parameters(public: dict[str, Any]) -> dict[str, Any]:
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


def rotary(parameters: Mapping[str, Any] | None, head_dim: int, context: int) -> Rotary:
    """The turning of positions with the scaling kind that `rope_parameters` names; UsageError for one that is not here.

    head_dim  how many numbers of a head turn
    """
    rope = dict(parameters or {})
    base = float(rope.pop("rope_theta", 10000.0))
    kind = rope.pop("rope_type", "default")
    freqs = frequencies(head_dim, base)
    original = int(rope.pop("original_max_position_embeddings", None) or context)
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
            head_dim=head_dim,
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


def decoder(
    c: LlamaLike,
    *,
    attention: Callable[[int], Mapping[str, Any]] = lambda layer: {},
    mlp: Callable[[int], nn.Module] | None = None,
    mlp_bias: bool = False,
    centred: bool = False,
    embed_scale: float = 1.0,
    norms_on_output: bool = False,
    head_cap: float | None = None,
) -> Decoder:
    """The network of this config, with no numbers in it yet.

    attention    what a layer's attention has beside the sizes (biases, norms, a window)
    mlp          a layer's MLP, where it is not a gated one
    mlp_bias     whether the linears of the MLP have biases
    centred      whether gains are 1 + weight
    embed_scale  of the tokens' vectors
    norms_on_output, head_cap  norms on what each half gives, and a cap of the logits (Gemma 2)
    """
    kinds = getattr(c, "layer_types", None)
    if kinds is not None and len(kinds) != c.num_hidden_layers:
        raise UsageError(
            f"config.json: layer_types names {len(kinds)} layers, and num_hidden_layers is {c.num_hidden_layers}"
        )
    turning = rotary(c.rope_parameters, c.width_of_head, c.max_position_embeddings)
    norm = partial(RMSNorm, c.hidden_size, eps=c.rms_norm_eps, centred=centred)

    def block(layer: int) -> Block:
        attn = Attention(
            c.hidden_size,
            heads=c.num_attention_heads,
            kv_heads=c.kv_heads,
            head_dim=c.width_of_head,
            causal=True,
            rotary=turning,
            **{"bias": False, **attention(layer)},
        )
        usual = partial(GatedMLP, c.hidden_size, c.intermediate_size, act=c.hidden_act, bias=mlp_bias)
        halves = ("attn", attn), ("mlp", usual() if mlp is None else mlp(layer))
        return Block(*(Branch(n, p, before=norm(), on_output=norm() if norms_on_output else None) for n, p in halves))

    tokens = Embedding(c.vocab_size, c.hidden_size)
    head = Linear(c.hidden_size, c.vocab_size, bias=False)
    if c.tie_word_embeddings:
        tie(head, tokens)
    embed = Embed(tokens, scale=embed_scale)
    out = head if head_cap is None else CappedHead(head, head_cap)
    return Decoder(embed, [block(i) for i in range(c.num_hidden_layers)], norm=norm(), head=out)


def hugging_face(c: LlamaLike) -> Rules:
    """Names in `model.safetensors`; a family has those that its config makes."""
    return rules(
        *lines(c.labels, LABELS),
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
        "layers.{i}.self_attn.q_norm.weight         -> blocks.{i}.attn.q_norm.weight",
        "layers.{i}.self_attn.k_norm.weight         -> blocks.{i}.attn.k_norm.weight",
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
