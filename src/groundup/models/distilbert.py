"""DistilBERT (Sanh et al., arXiv 1910.01108): a BERT of half the layers, without types of tokens and without a pooler.

A head for a text's label brings a pooler of its own: `pre_classifier`, relu, `classifier`.

ids ── embed + positions ── norm ──[ attn ─(+)─ norm ─ mlp ─(+)─ norm ] × layers ── head ── logits
"""

from __future__ import annotations

from typing import ClassVar, Literal

from groundup.core.config import ANY, FamilyConfig
from groundup.core.labels import CLASSIFIER, Level, lines
from groundup.core.rules import Rules, rules
from groundup.nn.attention import Attention
from groundup.nn.block import Block, Branch
from groundup.nn.embed import Embed
from groundup.nn.linear import Embedding, Linear, tie
from groundup.nn.mlp import MLP, activation
from groundup.nn.norms import LayerNorm
from groundup.nn.stack import Encoder, Pooler, TransformHead

OPTIONAL = ("head",)  # sentence encoders have none
LABELS: dict[Level, tuple[str, ...]] = {
    "sequence": (
        "/pre_classifier.weight -> pooler.dense.weight",
        "/pre_classifier.bias   -> pooler.dense.bias",
        *CLASSIFIER,
    ),
    "token": CLASSIFIER,
}


class Config(FamilyConfig):
    """The public keys of a DistilBERT `config.json`."""

    model_type: Literal["distilbert"] = "distilbert"
    vocab_size: int = 30522
    dim: int = 768
    n_layers: int = 6
    n_heads: int = 12
    hidden_dim: int = 3072
    activation: str = "gelu"
    max_position_embeddings: int = 512
    tie_word_embeddings: bool = True

    IGNORED: ClassVar = {
        "dropout": ANY,
        "attention_dropout": ANY,
        "qa_dropout": ANY,
        "seq_classif_dropout": ANY,
        "sinusoidal_pos_embds": ANY,  # how the learned table began
        "tie_weights_": ANY,
    }
    SPELLINGS: ClassVar = {"hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"}
    ARCHITECTURES = ("DistilBertForMaskedLM", "DistilBertModel")

    @property
    def context(self) -> int:
        return self.max_position_embeddings


def build(c: Config) -> Encoder:
    """The network of this config, with no numbers in it yet; whoever loads takes off the `OPTIONAL` part it lacks."""

    def norm() -> LayerNorm:
        return LayerNorm(c.dim, eps=1e-12)

    def block() -> Block:
        attention = Attention(c.dim, heads=c.n_heads)
        return Block(
            Branch("attn", attention, after=norm()),
            Branch("mlp", MLP(c.dim, c.hidden_dim, act=c.activation), after=norm()),
        )

    tokens = Embedding(c.vocab_size, c.dim)
    out = Linear(c.dim, c.vocab_size)
    if c.tie_word_embeddings:
        tie(out, tokens)
    embed = Embed(tokens, positions=Embedding(c.max_position_embeddings, c.dim), norm=norm())
    head = TransformHead(Linear(c.dim, c.dim), activation(c.activation), norm(), out)
    judges = c.labels is not None and c.labels.level == "sequence"
    pooler = Pooler(Linear(c.dim, c.dim), activation("relu")) if judges else None
    return Encoder(embed, [block() for _ in range(c.n_layers)], head=head, pooler=pooler)


def hugging_face(c: Config) -> Rules:
    """Names in `model.safetensors`."""
    return rules(
        *lines(c.labels, LABELS),
        "embeddings.word_embeddings.weight              -> embed.tokens.weight",
        "embeddings.position_embeddings.weight          -> embed.positions.weight",
        "embeddings.LayerNorm.weight                    -> embed.norm.weight",
        "embeddings.LayerNorm.bias                      -> embed.norm.bias",
        "transformer.layer.{i}.attention.q_lin.weight   -> blocks.{i}.attn.q.weight",
        "transformer.layer.{i}.attention.q_lin.bias     -> blocks.{i}.attn.q.bias",
        "transformer.layer.{i}.attention.k_lin.weight   -> blocks.{i}.attn.k.weight",
        "transformer.layer.{i}.attention.k_lin.bias     -> blocks.{i}.attn.k.bias",
        "transformer.layer.{i}.attention.v_lin.weight   -> blocks.{i}.attn.v.weight",
        "transformer.layer.{i}.attention.v_lin.bias     -> blocks.{i}.attn.v.bias",
        "transformer.layer.{i}.attention.out_lin.weight -> blocks.{i}.attn.o.weight",
        "transformer.layer.{i}.attention.out_lin.bias   -> blocks.{i}.attn.o.bias",
        "transformer.layer.{i}.sa_layer_norm.weight     -> blocks.{i}.attn_norm.weight",
        "transformer.layer.{i}.sa_layer_norm.bias       -> blocks.{i}.attn_norm.bias",
        "transformer.layer.{i}.ffn.lin1.weight          -> blocks.{i}.mlp.up.weight",
        "transformer.layer.{i}.ffn.lin1.bias            -> blocks.{i}.mlp.up.bias",
        "transformer.layer.{i}.ffn.lin2.weight          -> blocks.{i}.mlp.down.weight",
        "transformer.layer.{i}.ffn.lin2.bias            -> blocks.{i}.mlp.down.bias",
        "transformer.layer.{i}.output_layer_norm.weight -> blocks.{i}.mlp_norm.weight",
        "transformer.layer.{i}.output_layer_norm.bias   -> blocks.{i}.mlp_norm.bias",
        "/vocab_transform.weight                        -> head.dense.weight",
        "/vocab_transform.bias                          -> head.dense.bias",
        "/vocab_layer_norm.weight                       -> head.norm.weight",
        "/vocab_layer_norm.bias                         -> head.norm.bias",
        "/vocab_projector.bias                          -> head.out.bias",
        "/vocab_projector.weight                        -> head.out.weight | tie(embed.tokens.weight)",
        prefix="distilbert.",
    )
