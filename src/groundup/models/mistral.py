"""Mistral (Jiang et al., arXiv 2310.06825): a Llama whose tokens look back no further than a window.

ids ── embed ──[ norm ─ attn in a window ─(+)─ norm ─ mlp ─(+) ] × layers ── norm ── head ── logits
"""

from __future__ import annotations

from typing import Literal

from groundup.models.llama_like import LABELS, LlamaLike, decoder, hugging_face
from groundup.nn.stack import Decoder

__all__ = ["LABELS", "Config", "build", "hugging_face"]


class Config(LlamaLike):
    """The public keys of a Mistral `config.json`. `sliding_window` null: no window (v0.2 and later)."""

    model_type: Literal["mistral"] = "mistral"
    intermediate_size: int = 14336
    num_key_value_heads: int | None = 8
    max_position_embeddings: int = 131072
    sliding_window: int | None = 4096

    ARCHITECTURES = ("MistralForCausalLM", "MistralModel")


def build(c: Config) -> Decoder:
    """The network of this config, with no numbers in it yet."""
    return decoder(c, attention=lambda layer: {"window": c.sliding_window})
