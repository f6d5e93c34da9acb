"""Gemma 2 (arXiv 2408.00118): Gemma with norms on each half's output too, capped scores, a window in every second layer.

ids ── embed · √width ──[ norm ─ attn ─ norm ─(+)─ norm ─ mlp ─ norm ─(+) ] × layers ── norm ── head, capped ── logits
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from groundup.core.config import ANY
from groundup.core.rules import Rules, rules
from groundup.models import llama_like
from groundup.models.llama_like import LABELS, LlamaLike, decoder
from groundup.nn.stack import Decoder

__all__ = ["LABELS", "Config", "build", "hugging_face"]


class Config(LlamaLike):
    """The public keys of a Gemma 2 `config.json`."""

    model_type: Literal["gemma2"] = "gemma2"
    vocab_size: int = 256000
    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 26
    num_attention_heads: int = 8
    num_key_value_heads: int | None = 4
    head_dim: int = 256
    hidden_act: str = "gelu_pytorch_tanh"
    max_position_embeddings: int = 8192
    tie_word_embeddings: bool = True
    attention_bias: bool = False
    query_pre_attn_scalar: int = 256
    sliding_window: int | None = 4096
    layer_types: list[Literal["full_attention", "sliding_attention"]] | None = None
    final_logit_softcapping: float | None = 30.0
    attn_logit_softcapping: float | None = 50.0

    IGNORED: ClassVar = {
        **LlamaLike.IGNORED,
        "use_bidirectional_attention": (None, False),
        "cache_implementation": ANY,
    }
    SPELLINGS: ClassVar = {"hidden_activation": "hidden_act"}
    ARCHITECTURES = ("Gemma2ForCausalLM", "Gemma2Model")

    def to_public(self) -> dict[str, Any]:
        return super().to_public() | {"hidden_activation": self.hidden_act}

    def window(self, layer: int) -> int | None:
        """How far back a layer looks: the first, third ... to the window, unless the file names each layer's kind."""
        slides = layer % 2 == 0 if self.layer_types is None else self.layer_types[layer] == "sliding_attention"
        return self.sliding_window if slides else None


def build(c: Config) -> Decoder:
    """The network of this config, with no numbers in it yet."""
    how = {"bias": c.attention_bias, "cap": c.attn_logit_softcapping, "scale": c.query_pre_attn_scalar**-0.5}
    return decoder(
        c,
        attention=lambda layer: {**how, "window": c.window(layer)},
        centred=True,
        embed_scale=c.hidden_size**0.5,
        norms_on_output=True,
        head_cap=c.final_logit_softcapping,
    )


def hugging_face(c: Config) -> Rules:
    """Names in `model.safetensors`: Llama's, but for the norms; the first line of a name holds."""
    head = "head.weight" if c.final_logit_softcapping is None else "head.out.weight"
    return rules(
        "layers.{i}.post_attention_layernorm.weight   -> blocks.{i}.attn_out_norm.weight",
        "layers.{i}.pre_feedforward_layernorm.weight  -> blocks.{i}.mlp_norm.weight",
        "layers.{i}.post_feedforward_layernorm.weight -> blocks.{i}.mlp_out_norm.weight",
        f"/lm_head.weight                             -> {head} | tie(embed.tokens.weight)",
        *llama_like.hugging_face(c).table,
        prefix="model.",
    )
