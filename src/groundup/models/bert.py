"""BERT (Devlin et al., arXiv 1810.04805): an encoder with learned positions, token types, and LayerNorm on every sum.

ids ── embed + positions + types ── norm ──[ attn ─(+)─ norm ─ mlp ─(+)─ norm ] × layers ─┬─ head ── logits
                                                                                           └─ pooler (first token)
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

# Parts that a file may leave out as a whole: masked-word files have no pooler, sentence encoders no head.
OPTIONAL = ("head", "pooler")


LABELS: dict[Level, tuple[str, ...]] = {"sequence": CLASSIFIER, "token": CLASSIFIER}


class Config(FamilyConfig):
    """The public keys of a BERT `config.json`."""

    model_type: Literal["bert"] = "bert"
    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    tie_word_embeddings: bool = True

    IGNORED: ClassVar = {
        "hidden_dropout_prob": ANY,
        "attention_probs_dropout_prob": ANY,
        "classifier_dropout": ANY,
        "position_embedding_type": ("absolute", None),
        "directionality": ("bidi",),  # this and the next five: written by the first TensorFlow files, read by nobody
        "pooler_fc_size": ANY,
        "pooler_num_attention_heads": ANY,
        "pooler_num_fc_layers": ANY,
        "pooler_size_per_head": ANY,
        "pooler_type": ("first_token_transform",),
    }
    ARCHITECTURES: ClassVar[tuple[str, ...]] = ("BertForMaskedLM", "BertModel", "BertForPreTraining")

    @property
    def context(self) -> int:
        return self.max_position_embeddings


def build(c: Config) -> Encoder:
    """The network of this config, with no numbers in it yet; whoever loads takes off the `OPTIONAL` parts it lacks."""
    return encoder(c, head_act=c.hidden_act)


def encoder(c: Config, *, head_act: str, first_position: int = 0) -> Encoder:
    """The network of BERT and its kin: the head's activation, and the row of the table at which positions begin."""

    def norm() -> LayerNorm:
        return LayerNorm(c.hidden_size, eps=c.layer_norm_eps)

    def block() -> Block:
        attention = Attention(c.hidden_size, heads=c.num_attention_heads)
        mlp = MLP(c.hidden_size, c.intermediate_size, act=c.hidden_act)
        return Block(Branch("attn", attention, after=norm()), Branch("mlp", mlp, after=norm()))

    tokens = Embedding(c.vocab_size, c.hidden_size)
    out = Linear(c.hidden_size, c.vocab_size)
    if c.tie_word_embeddings:
        tie(out, tokens)
    embed = Embed(
        tokens,
        positions=Embedding(c.max_position_embeddings, c.hidden_size),
        types=Embedding(c.type_vocab_size, c.hidden_size),
        norm=norm(),
        first_position=first_position,
    )
    head = TransformHead(Linear(c.hidden_size, c.hidden_size), activation(head_act), norm(), out)
    pooler = Pooler(Linear(c.hidden_size, c.hidden_size))
    return Encoder(embed, [block() for _ in range(c.num_hidden_layers)], head=head, pooler=pooler)


def hugging_face(c: Config) -> Rules:
    """Names in `model.safetensors`; the oldest files call a norm's weight and bias gamma and beta."""
    return rules(
        *lines(c.labels, LABELS),
        *body(pooled=c.labels is None or c.labels.level == "sequence"),
        "/cls.predictions.transform.dense.weight              -> head.dense.weight",
        "/cls.predictions.transform.dense.bias                -> head.dense.bias",
        "/cls.predictions.transform.LayerNorm.weight          -> head.norm.weight",
        "/cls.predictions.transform.LayerNorm.bias            -> head.norm.bias",
        *scores("/cls.predictions", tied=c.tie_word_embeddings),
        "/cls.seq_relationship.weight                         -> ignore",  # next-sentence scores of pretraining
        "/cls.seq_relationship.bias                           -> ignore",
        prefix="bert.",
        spellings={"gamma": "weight", "beta": "bias"},
    )


def scores(head: str, *, tied: bool) -> tuple[str, ...]:
    """The last linear of a masked-word head.

    A tied one's bias has two names for one tensor; an untied one reads the second and leaves the first alone.
    """
    first, second = f"{head}.bias -> head.out.bias", f"{head}.decoder.bias -> head.out.bias"
    bias = (first, second) if tied else (second, f"{head}.bias -> ignore")
    return (*bias, f"{head}.decoder.weight -> head.out.weight | tie(embed.tokens.weight)")


def body(*, pooled: bool) -> tuple[str, ...]:
    """All below the heads. pooled: the network reads the file's pooler; heads for words do not, and old files keep it."""
    return (
        "embeddings.word_embeddings.weight                    -> embed.tokens.weight",
        "embeddings.position_embeddings.weight                -> embed.positions.weight",
        "embeddings.token_type_embeddings.weight              -> embed.types.weight",
        "embeddings.LayerNorm.weight                          -> embed.norm.weight",
        "embeddings.LayerNorm.bias                            -> embed.norm.bias",
        "encoder.layer.{i}.attention.self.query.weight        -> blocks.{i}.attn.q.weight",
        "encoder.layer.{i}.attention.self.query.bias          -> blocks.{i}.attn.q.bias",
        "encoder.layer.{i}.attention.self.key.weight          -> blocks.{i}.attn.k.weight",
        "encoder.layer.{i}.attention.self.key.bias            -> blocks.{i}.attn.k.bias",
        "encoder.layer.{i}.attention.self.value.weight        -> blocks.{i}.attn.v.weight",
        "encoder.layer.{i}.attention.self.value.bias          -> blocks.{i}.attn.v.bias",
        "encoder.layer.{i}.attention.output.dense.weight      -> blocks.{i}.attn.o.weight",
        "encoder.layer.{i}.attention.output.dense.bias        -> blocks.{i}.attn.o.bias",
        "encoder.layer.{i}.attention.output.LayerNorm.weight  -> blocks.{i}.attn_norm.weight",
        "encoder.layer.{i}.attention.output.LayerNorm.bias    -> blocks.{i}.attn_norm.bias",
        "encoder.layer.{i}.intermediate.dense.weight          -> blocks.{i}.mlp.up.weight",
        "encoder.layer.{i}.intermediate.dense.bias            -> blocks.{i}.mlp.up.bias",
        "encoder.layer.{i}.output.dense.weight                -> blocks.{i}.mlp.down.weight",
        "encoder.layer.{i}.output.dense.bias                  -> blocks.{i}.mlp.down.bias",
        "encoder.layer.{i}.output.LayerNorm.weight            -> blocks.{i}.mlp_norm.weight",
        "encoder.layer.{i}.output.LayerNorm.bias              -> blocks.{i}.mlp_norm.bias",
        f"pooler.dense.weight                                 -> {'pooler.dense.weight' if pooled else 'ignore'}",
        f"pooler.dense.bias                                   -> {'pooler.dense.bias' if pooled else 'ignore'}",
        "embeddings.position_ids                              -> ignore",  # 0 1 2 ...
    )
