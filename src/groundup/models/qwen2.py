"""Qwen2 and Qwen2.5 (arXiv 2407.10671): a Llama with biases on q, k and v; its upper layers may have a window.

ids ── embed ──[ norm ─ attn ─(+)─ norm ─ mlp ─(+) ] × layers ── norm ── head ── logits
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from groundup.core.rules import Rules
from groundup.models.llama_like import LABELS, LlamaLike, decoder, hugging_face
from groundup.models.llama_like_gguf import heard, names, said
from groundup.nn.stack import Decoder

__all__ = ["LABELS", "Config", "build", "config_from_gguf", "config_to_gguf", "gguf", "hugging_face"]


class Config(LlamaLike):
    """The public keys of a Qwen2 `config.json`."""

    model_type: Literal["qwen2"] = "qwen2"
    vocab_size: int = 151936
    intermediate_size: int = 22016
    num_key_value_heads: int | None = 32
    max_position_embeddings: int = 32768
    use_sliding_window: bool = False
    sliding_window: int | None = 4096
    layer_types: list[Literal["full_attention", "sliding_attention"]] | None = None

    ARCHITECTURES = ("Qwen2ForCausalLM", "Qwen2Model")

    @classmethod
    def prepare(cls, public: dict[str, Any]) -> dict[str, Any]:
        """Older files say from which layer on there is a window, newer ones name each layer's kind."""
        public = super().prepare(public)
        layers = public.get("num_hidden_layers", cls.model_fields["num_hidden_layers"].default)
        first = public.pop("max_window_layers", 28)
        if public.get("layer_types") is None and public.get("use_sliding_window"):
            public["layer_types"] = ["full_attention" if i < first else "sliding_attention" for i in range(layers)]
        return public

    def window(self, layer: int) -> int | None:
        """How far back a layer looks; None: to the beginning."""
        slides = self.use_sliding_window and self.layer_types and self.layer_types[layer] == "sliding_attention"
        return self.sliding_window if slides else None


def build(c: Config) -> Decoder:
    """The network of this config, with no numbers in it yet."""
    return decoder(c, attention=lambda layer: {"bias": True, "out_bias": False, "window": c.window(layer)})


def gguf(c: Config) -> Rules:
    """Names in a `.gguf`."""
    return names(c, neighbours=False)


def config_to_gguf(c: Config) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config as a `.gguf` says it: metadata, and tensors. UsageError for a window, which it cannot say."""
    return said(c, "qwen2", map(c.window, range(c.num_hidden_layers)))


def config_from_gguf(m: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Config:
    """The config that a `.gguf` spells out."""
    return Config(**heard(m, tensors, "qwen2"))
