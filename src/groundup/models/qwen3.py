"""Qwen3 (arXiv 2505.09388): Qwen2 without its biases, with a norm on each head's queries and keys instead.

ids ── embed ──[ norm ─ attn (q, k normed) ─(+)─ norm ─ mlp ─(+) ] × layers ── norm ── head ── logits
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from groundup.core.rules import Rules
from groundup.models import qwen2
from groundup.models.llama_like import LABELS, decoder, hugging_face
from groundup.models.llama_like_gguf import heard, names, said
from groundup.nn.norms import RMSNorm
from groundup.nn.stack import Decoder

__all__ = ["LABELS", "Config", "build", "config_from_gguf", "config_to_gguf", "gguf", "hugging_face"]


class Config(qwen2.Config):
    """The public keys of a Qwen3 `config.json`; a head's width is apart from the model's."""

    model_type: Literal["qwen3"] = "qwen3"  # type: ignore[assignment]
    head_dim: int = 128  # never left to the other sizes
    attention_bias: bool = False

    ARCHITECTURES = ("Qwen3ForCausalLM", "Qwen3Model")


def build(c: Config) -> Decoder:
    """The network of this config, with no numbers in it yet."""

    def norm() -> RMSNorm:
        return RMSNorm(c.width_of_head, eps=c.rms_norm_eps)

    def attention(layer: int) -> dict[str, Any]:
        return {"bias": c.attention_bias, "window": c.window(layer), "q_norm": norm(), "k_norm": norm()}

    return decoder(c, attention=attention)


def gguf(c: Config) -> Rules:
    """Names in a `.gguf`."""
    return names(c, neighbours=False)


def config_to_gguf(c: Config) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config as a `.gguf` says it: metadata, and tensors. UsageError for a window, which it cannot say."""
    return said(c, "qwen3", map(c.window, range(c.num_hidden_layers)))


def config_from_gguf(m: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Config:
    """The config that a `.gguf` spells out."""
    return Config(**heard(m, tensors, "qwen3"), attention_bias="blk.0.attn_q.bias" in tensors)
