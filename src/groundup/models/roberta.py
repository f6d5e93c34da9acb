"""RoBERTa (Liu et al., arXiv 1907.11692): a BERT whose positions begin behind its padding's, with one type of token.

A head for a text's label has a pooler of its own in the file: `classifier.dense`, tanh, `classifier.out_proj`.

ids ── embed + positions + type ── norm ──[ attn ─(+)─ norm ─ mlp ─(+)─ norm ] × layers ── head ── logits
"""

from __future__ import annotations

from typing import Literal

from groundup.core.errors import UsageError
from groundup.core.labels import CLASSIFIER, Level, lines
from groundup.core.rules import Rules, rules
from groundup.models import bert
from groundup.models.bert import OPTIONAL
from groundup.nn.stack import Encoder

__all__ = ["LABELS", "OPTIONAL", "Config", "build", "hugging_face"]

LABELS: dict[Level, tuple[str, ...]] = {
    "sequence": (
        "/classifier.dense.weight    -> pooler.dense.weight",
        "/classifier.dense.bias      -> pooler.dense.bias",
        "/classifier.out_proj.weight -> labels.weight",
        "/classifier.out_proj.bias   -> labels.bias",
    ),
    "token": CLASSIFIER,
}


class Config(bert.Config):
    """The public keys of a RoBERTa `config.json`; `max_position_embeddings` counts the rows before the first place too."""

    model_type: Literal["roberta"] = "roberta"  # type: ignore[assignment]
    vocab_size: int = 50265
    pad_token_id: int = 1

    ARCHITECTURES = ("RobertaForMaskedLM", "RobertaModel")

    @property
    def context(self) -> int:
        return self.max_position_embeddings - self.pad_token_id - 1


def build(c: Config) -> Encoder:
    """The network of this config, with no numbers in it yet; whoever loads takes off the `OPTIONAL` parts it lacks."""
    if c.context < 1:
        raise UsageError(
            f"max_position_embeddings is {c.max_position_embeddings}, of which {c.pad_token_id + 1} stand before the first "
            "place: give more"
        )
    return bert.encoder(c, head_act="gelu", first_position=c.pad_token_id + 1)


def hugging_face(c: Config) -> Rules:
    """Names in `model.safetensors`: BERT's, but for the heads."""
    return rules(
        *lines(c.labels, LABELS),
        *bert.body(pooled=c.labels is None),
        "/lm_head.dense.weight      -> head.dense.weight",
        "/lm_head.dense.bias        -> head.dense.bias",
        "/lm_head.layer_norm.weight -> head.norm.weight",
        "/lm_head.layer_norm.bias   -> head.norm.bias",
        *bert.scores("/lm_head", tied=c.tie_word_embeddings),
        prefix="roberta.",
    )
