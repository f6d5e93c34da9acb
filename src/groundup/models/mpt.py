"""MPT (MosaicML, 2023): a decoder whose scores fall with distance (ALiBi), and in which nothing has a bias.

ids ── embed ──[ norm ─ attn ─(+)─ norm ─ mlp ─(+) ] × layers ── norm ── head ── logits
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from groundup.core.config import ANY, COMMON_IGNORED, FamilyConfig
from groundup.core.errors import UsageError
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

# What `attn_config` may say beside clip_qkv and softmax_scale, which are read.
ATTENTION: dict[str, Any] = {
    **COMMON_IGNORED,
    "alibi": (True,),
    "alibi_bias_max": (8,),
    "attn_type": ("multihead_attention",),
    "prefix_lm": (False,),
    "qk_ln": (False,),  # the reference has the key and does not read it
    # how it is run and trained; which row a token is of is known here anyway
    **dict.fromkeys(("attn_impl", "attn_pdrop", "attn_uses_sequence_id", "model_type"), ANY),
}

LABELS = SCORES


class Config(FamilyConfig):
    """The public keys of an MPT `config.json`; two stand in its `attn_config`."""

    model_type: Literal["mpt"] = "mpt"
    vocab_size: int = 50368
    d_model: int = 2048
    n_heads: int = 16
    n_layers: int = 24
    layer_norm_epsilon: float = 1e-5
    clip_qkv: float | None = None
    softmax_scale: float | None = None
    tie_word_embeddings: bool = True

    IGNORED: ClassVar = {
        "max_seq_len": ANY,  # of training; ALiBi has no table that ends there
        "learned_pos_emb": ANY,  # ALiBi stands in for them
        "expansion_ratio": (4,),
        "no_bias": (True,),
        "logit_scale": (None,),
        "norm_type": ("low_precision_layernorm",),
        "embedding_fraction": (1, 1.0),
        "resid_pdrop": ANY,
        "emb_pdrop": ANY,
        **dict.fromkeys(("init_config", "init_device", "tokenizer_name", "verbose"), ANY),  # how it was trained
    }
    SPELLINGS: ClassVar = {"hidden_size": "d_model", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"}
    ARCHITECTURES = ("MptForCausalLM", "MptModel")

    @classmethod
    def prepare(cls, public: dict[str, Any]) -> dict[str, Any]:
        public = dict(public)
        inner = dict(public.pop("attn_config", None) or {})
        found = {key: inner.pop(key) for key in ("clip_qkv", "softmax_scale") if key in inner}
        public |= {key: None if value is None else float(value) for key, value in found.items()}
        for key, value in inner.items():
            if value not in ATTENTION.get(key, ()):
                raise UsageError(f"config.json: attn_config.{key} = {value!r} is not supported in an mpt")
        return public

    def to_public(self) -> dict[str, Any]:
        public = super().to_public()
        inner = {key: public.pop(key) for key in ("clip_qkv", "softmax_scale")}
        return public | {"attn_config": inner}


def build(c: Config) -> Decoder:
    """The network of this config, with no numbers in it yet."""
    alibi = Alibi(c.n_heads)

    def norm() -> LayerNorm:
        return LayerNorm(c.d_model, eps=c.layer_norm_epsilon, bias=False)

    def block() -> Block:
        how: dict[str, Any] = {
            "causal": True,
            "bias": False,
            "score_bias": alibi,
            "scale": c.softmax_scale,
            "clip": c.clip_qkv or None,
        }
        attention = Attention(c.d_model, heads=c.n_heads, **how)
        mlp = MLP(c.d_model, 4 * c.d_model, act="gelu", bias=False)
        return Block(Branch("attn", attention, before=norm()), Branch("mlp", mlp, before=norm()))

    tokens = Embedding(c.vocab_size, c.d_model)
    head = Linear(c.d_model, c.vocab_size, bias=False)
    if c.tie_word_embeddings:
        tie(head, tokens)
    return Decoder(Embed(tokens), [block() for _ in range(c.n_layers)], norm=norm(), head=head)


def hugging_face(c: Config) -> Rules:
    """Names in `model.safetensors`."""
    return rules(
        *lines(c.labels, LABELS),
        "wte.weight                       -> embed.tokens.weight",
        "blocks.{i}.norm_1.weight         -> blocks.{i}.attn_norm.weight",
        "blocks.{i}.attn.Wqkv.weight      -> blocks.{i}.attn.{q,k,v}.weight | split",
        "blocks.{i}.attn.out_proj.weight  -> blocks.{i}.attn.o.weight",
        "blocks.{i}.norm_2.weight         -> blocks.{i}.mlp_norm.weight",
        "blocks.{i}.ffn.up_proj.weight    -> blocks.{i}.mlp.up.weight",
        "blocks.{i}.ffn.down_proj.weight  -> blocks.{i}.mlp.down.weight",
        "norm_f.weight                    -> norm.weight",
        "/lm_head.weight                  -> head.weight | tie(embed.tokens.weight)",
        prefix="transformer.",
    )
