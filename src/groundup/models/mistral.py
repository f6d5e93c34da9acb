"""Mistral (Jiang et al., arXiv 2310.06825): a Llama whose tokens look back no further than a window.

ids ── embed ──[ norm ─ attn in a window ─(+)─ norm ─ mlp ─(+) ] × layers ── norm ── head ── logits
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from groundup.core.rules import Rules
from groundup.models.llama_like import LABELS, LlamaLike, decoder, hugging_face
from groundup.models.llama_like_gguf import names, said
from groundup.nn.stack import Decoder

__all__ = ["LABELS", "Config", "build", "config_to_gguf", "gguf", "hugging_face"]


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


def gguf(c: Config) -> Rules:
    """Names in a `.gguf`: those of a Llama, which it is for llama.cpp, and when such a file is loaded."""
    return names(c, neighbours=True)


def config_to_gguf(c: Config) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config as a `.gguf` says it: metadata, and tensors. UsageError for a window, which it cannot say."""
    return said(c, "llama", [c.sliding_window])
