"""GPT-NeoX (Black et al., arXiv 2204.06745) and Pythia: attention and MLP side by side, positions in part of each head.

ids ── embed ──[ ─┬─ norm ─ attn ─┐
                  ├─ norm ─ mlp ──┤
                  └───────────────┴─(+) ] × layers ── norm ── head ── logits
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from groundup.core.config import ANY, FamilyConfig
from groundup.core.labels import SCORES, lines
from groundup.core.rules import Rules, rules
from groundup.models.llama_like import rotary, with_rope_parameters
from groundup.nn.attention import Attention
from groundup.nn.block import Block, Branch
from groundup.nn.embed import Embed
from groundup.nn.linear import Embedding, Linear, tie
from groundup.nn.mlp import MLP
from groundup.nn.norms import LayerNorm
from groundup.nn.stack import Decoder

LABELS = SCORES


class Config(FamilyConfig):
    """The public keys of a GPT-NeoX `config.json`."""

    model_type: Literal["gpt_neox"] = "gpt_neox"
    vocab_size: int = 50432
    hidden_size: int = 6144
    intermediate_size: int = 24576
    num_hidden_layers: int = 44
    num_attention_heads: int = 64
    hidden_act: str = "gelu"
    max_position_embeddings: int = 2048
    layer_norm_eps: float = 1e-5
    rope_parameters: dict[str, Any] | None = None
    use_parallel_residual: bool = True
    attention_bias: bool = True
    tie_word_embeddings: bool = False

    IGNORED: ClassVar = {"attention_dropout": ANY, "hidden_dropout": ANY, "attention_probs_dropout_prob": ANY}
    ARCHITECTURES = ("GPTNeoXForCausalLM", "GPTNeoXModel")

    @classmethod
    def prepare(cls, public: dict[str, Any]) -> dict[str, Any]:
        """Older files say `rotary_emb_base` and `rotary_pct`, the share of each head that turns."""
        public = dict(public)
        base, share = public.pop("rotary_emb_base", None), public.pop("rotary_pct", 0.25)
        if base is not None:
            public.setdefault("rope_theta", base)
        public = with_rope_parameters(public)
        public["rope_parameters"].setdefault("partial_rotary_factor", float(share))
        return public

    @property
    def context(self) -> int:
        return self.max_position_embeddings


def build(c: Config) -> Decoder:
    """The network of this config, with no numbers in it yet."""
    rope = dict(c.rope_parameters or {})
    share = rope.pop("partial_rotary_factor", 0.25)
    turning = rotary(rope, int(c.hidden_size // c.num_attention_heads * share), c.max_position_embeddings)

    def norm() -> LayerNorm:
        return LayerNorm(c.hidden_size, eps=c.layer_norm_eps)

    def block() -> Block:
        how: dict[str, Any] = {"causal": True, "rotary": turning, "bias": c.attention_bias}
        attention = Attention(c.hidden_size, heads=c.num_attention_heads, **how)
        mlp = MLP(c.hidden_size, c.intermediate_size, act=c.hidden_act)
        return Block(
            Branch("attn", attention, before=norm()),
            Branch("mlp", mlp, before=norm(), beside=c.use_parallel_residual),
        )

    tokens = Embedding(c.vocab_size, c.hidden_size)
    head = Linear(c.hidden_size, c.vocab_size, bias=False)
    if c.tie_word_embeddings:
        tie(head, tokens)
    return Decoder(Embed(tokens), [block() for _ in range(c.num_hidden_layers)], norm=norm(), head=head)


def hugging_face(c: Config) -> Rules:
    """Names in `model.safetensors`; the rows of q, k and v stand there head by head: q0 k0 v0 q1 k1 v1 ..."""
    fused = f"interleave({c.num_attention_heads})"
    return rules(
        *lines(c.labels, LABELS),
        "embed_in.weight                               -> embed.tokens.weight",
        "layers.{i}.input_layernorm.weight             -> blocks.{i}.attn_norm.weight",
        "layers.{i}.input_layernorm.bias               -> blocks.{i}.attn_norm.bias",
        f"layers.{{i}}.attention.query_key_value.weight -> blocks.{{i}}.attn.{{q,k,v}}.weight | {fused}",
        f"layers.{{i}}.attention.query_key_value.bias   -> blocks.{{i}}.attn.{{q,k,v}}.bias   | {fused}",
        "layers.{i}.attention.dense.weight             -> blocks.{i}.attn.o.weight",
        "layers.{i}.attention.dense.bias               -> blocks.{i}.attn.o.bias",
        "layers.{i}.post_attention_layernorm.weight    -> blocks.{i}.mlp_norm.weight",
        "layers.{i}.post_attention_layernorm.bias      -> blocks.{i}.mlp_norm.bias",
        "layers.{i}.mlp.dense_h_to_4h.weight           -> blocks.{i}.mlp.up.weight",
        "layers.{i}.mlp.dense_h_to_4h.bias             -> blocks.{i}.mlp.up.bias",
        "layers.{i}.mlp.dense_4h_to_h.weight           -> blocks.{i}.mlp.down.weight",
        "layers.{i}.mlp.dense_4h_to_h.bias             -> blocks.{i}.mlp.down.bias",
        "final_layer_norm.weight                       -> norm.weight",
        "final_layer_norm.bias                         -> norm.bias",
        "/embed_out.weight                             -> head.weight | tie(embed.tokens.weight)",
        "/lm_head.weight                               -> head.weight",  # as newer versions of the reference may say
        "layers.{i}.attention.bias                     -> ignore",  # the causal triangle that old files carry
        "layers.{i}.attention.masked_bias              -> ignore",
        "layers.{i}.attention.rotary_emb.inv_freq      -> ignore",
        prefix="gpt_neox.",
    )
