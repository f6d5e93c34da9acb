"""Gemma (arXiv 2403.08295): a Llama whose gains are 1 + weight, and whose tokens enter times √width.

ids ── embed · √width ──[ norm ─ attn ─(+)─ norm ─ mlp ─(+) ] × layers ── norm ── head ── logits
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from groundup.models.llama_like import LABELS, LlamaLike, decoder, hugging_face
from groundup.nn.stack import Decoder

__all__ = ["LABELS", "Config", "build", "hugging_face"]


class Config(LlamaLike):
    """The public keys of a Gemma `config.json`."""

    model_type: Literal["gemma"] = "gemma"
    vocab_size: int = 256000
    hidden_size: int = 3072
    intermediate_size: int = 24576
    num_hidden_layers: int = 28
    num_attention_heads: int = 16
    num_key_value_heads: int | None = 16
    head_dim: int = 256  # never left to the other sizes
    hidden_act: str = "gelu_pytorch_tanh"
    max_position_embeddings: int = 8192
    tie_word_embeddings: bool = True
    attention_bias: bool = False

    IGNORED: ClassVar = {
        **LlamaLike.IGNORED,
        "hidden_activation": (None, "gelu_pytorch_tanh"),
        "use_bidirectional_attention": (None, False),
    }
    ARCHITECTURES = ("GemmaForCausalLM", "GemmaModel")

    @classmethod
    def prepare(cls, public: dict[str, Any]) -> dict[str, Any]:
        """The first files say `gelu`, and mean its approximation by tanh."""
        public = super().prepare(public)
        return public | ({"hidden_act": "gelu_pytorch_tanh"} if public.get("hidden_act") == "gelu" else {})


def build(c: Config) -> Decoder:
    """The network of this config, with no numbers in it yet."""
    bias = {"bias": c.attention_bias}
    return decoder(c, attention=lambda layer: bias, centred=True, embed_scale=c.hidden_size**0.5)
