"""Qwen3 (arXiv 2505.09388): Qwen2 without its biases, with a norm on each head's queries and keys instead.

ids ── embed ──[ norm ─ attn (q, k normed) ─(+)─ norm ─ mlp ─(+) ] × layers ── norm ── head ── logits
"""

from __future__ import annotations

from typing import Any, Literal

from groundup.models import qwen2
from groundup.models.llama_like import LABELS, decoder, hugging_face
from groundup.nn.norms import RMSNorm
from groundup.nn.stack import Decoder

__all__ = ["LABELS", "Config", "build", "hugging_face"]


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
