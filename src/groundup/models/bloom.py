"""BLOOM (Scao et al., arXiv 2211.05100): a decoder whose scores fall with distance (ALiBi).

ids ── embed ── norm ──[ norm ─ attn ─(+)─ norm ─ mlp ─(+) ] × layers ── norm ── head ── logits
"""

from __future__ import annotations

from typing import ClassVar, Literal

from groundup.core.config import ANY, FamilyConfig
from groundup.core.labels import SCORES, lines
from groundup.core.rules import Rules, rules
from groundup.nn.attention import Attention
from groundup.nn.block import Block, Branch
from groundup.nn.embed import Embed
from groundup.nn.linear import Embedding, Linear, tie
from groundup.nn.mlp import MLP
from groundup.nn.norms import LayerNorm
from groundup.nn.positions import Alibi
from groundup.nn.stack import Decoder

LABELS = SCORES


class Config(FamilyConfig):
    """The public keys of a BLOOM `config.json`."""

    model_type: Literal["bloom"] = "bloom"
    vocab_size: int = 250880
    hidden_size: int = 64
    n_layer: int = 2
    n_head: int = 8
    layer_norm_epsilon: float = 1e-5
    apply_residual_connection_post_layernorm: bool = False
    tie_word_embeddings: bool = True

    IGNORED: ClassVar = {
        "hidden_dropout": ANY,
        "attention_dropout": ANY,
        "n_inner": (None,),
        "seq_length": ANY,  # of training; ALiBi has no table that ends there
        "slow_but_exact": ANY,  # the order of roundings of a tensor-parallel run, not the mathematics
        "attention_softmax_in_fp32": ANY,
        "bias_dropout_fusion": ANY,  # this one and the rest: switches of the training framework
        "masked_softmax_fusion": ANY,
        "offset_alibi": ANY,
        "skip_bias_add": ANY,
        "skip_bias_add_qkv": ANY,
    }
    SPELLINGS: ClassVar = {"n_embed": "hidden_size", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}
    ARCHITECTURES = ("BloomForCausalLM", "BloomModel")

    @property
    def context(self) -> None:
        """Unlimited: distances need no table."""
        return None


def build(c: Config) -> Decoder:
    """The network of this config, with no numbers in it yet."""
    alibi = Alibi(c.n_head)
    source = "normed" if c.apply_residual_connection_post_layernorm else "input"

    def norm() -> LayerNorm:
        return LayerNorm(c.hidden_size, eps=c.layer_norm_epsilon)

    def block() -> Block:
        attention = Attention(c.hidden_size, heads=c.n_head, causal=True, score_bias=alibi)
        mlp = MLP(c.hidden_size, 4 * c.hidden_size, act="gelu_new")
        return Block(
            Branch("attn", attention, before=norm(), adds_to=source), Branch("mlp", mlp, before=norm(), adds_to=source)
        )

    tokens = Embedding(c.vocab_size, c.hidden_size)
    head = Linear(c.hidden_size, c.vocab_size, bias=False)
    if c.tie_word_embeddings:
        tie(head, tokens)
    return Decoder(Embed(tokens, norm=norm()), [block() for _ in range(c.n_layer)], norm=norm(), head=head)


def hugging_face(c: Config) -> Rules:
    """Names in `model.safetensors`; the rows of q, k and v stand there head by head: q0 k0 v0 q1 k1 v1 ..."""
    fused = f"interleave({c.n_head})"
    return rules(
        *lines(c.labels, LABELS),
        "word_embeddings.weight                      -> embed.tokens.weight",
        "word_embeddings_layernorm.weight            -> embed.norm.weight",
        "word_embeddings_layernorm.bias              -> embed.norm.bias",
        "h.{i}.input_layernorm.weight                -> blocks.{i}.attn_norm.weight",
        "h.{i}.input_layernorm.bias                  -> blocks.{i}.attn_norm.bias",
        f"h.{{i}}.self_attention.query_key_value.weight -> blocks.{{i}}.attn.{{q,k,v}}.weight | {fused}",
        f"h.{{i}}.self_attention.query_key_value.bias   -> blocks.{{i}}.attn.{{q,k,v}}.bias   | {fused}",
        "h.{i}.self_attention.dense.weight           -> blocks.{i}.attn.o.weight",
        "h.{i}.self_attention.dense.bias             -> blocks.{i}.attn.o.bias",
        "h.{i}.post_attention_layernorm.weight       -> blocks.{i}.mlp_norm.weight",
        "h.{i}.post_attention_layernorm.bias         -> blocks.{i}.mlp_norm.bias",
        "h.{i}.mlp.dense_h_to_4h.weight              -> blocks.{i}.mlp.up.weight",
        "h.{i}.mlp.dense_h_to_4h.bias                -> blocks.{i}.mlp.up.bias",
        "h.{i}.mlp.dense_4h_to_h.weight              -> blocks.{i}.mlp.down.weight",
        "h.{i}.mlp.dense_4h_to_h.bias                -> blocks.{i}.mlp.down.bias",
        "ln_f.weight                                 -> norm.weight",
        "ln_f.bias                                   -> norm.bias",
        "/lm_head.weight                             -> head.weight | tie(embed.tokens.weight)",
        prefix="transformer.",
    )
