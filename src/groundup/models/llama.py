"""Llama (Touvron et al., arXiv 2302.13971): a decoder with rotary positions, RMSNorm before each half, a gated MLP.

Several query heads may share a key head (grouped queries). SmolLM2 is of this family.

    ids ── embed ──[ norm ─ attn ─(+)─ norm ─ mlp ─(+) ] × layers ── norm ── head ── logits
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor

from groundup.core.config import ANY
from groundup.core.rules import Rules
from groundup.models.llama_like import LABELS, LlamaLike, decoder, hugging_face
from groundup.models.llama_like_gguf import heard, names, said
from groundup.nn.stack import Decoder

__all__ = ["LABELS", "Config", "build", "config_from_gguf", "config_to_gguf", "gguf", "hugging_face"]


class Config(LlamaLike):
    """The public keys of a Llama `config.json`."""

    model_type: Literal["llama"] = "llama"
    attention_bias: bool = False
    mlp_bias: bool = False

    IGNORED: ClassVar = {
        **LlamaLike.IGNORED,
        "rope_interleaved": (False,),
        "is_llama_config": ANY,
        "max_sequence_length": ANY,  # max_position_embeddings once more, in files of the first Llama
    }
    ARCHITECTURES = ("LlamaForCausalLM", "LlamaModel")


def build(c: Config) -> Decoder:
    """The network of this config, with no numbers in it yet."""
    return decoder(c, attention=lambda layer: {"bias": c.attention_bias}, mlp_bias=c.mlp_bias)


def gguf(c: Config) -> Rules:
    """Names in a `.gguf`; q and k are stored with neighbouring pairs."""
    return names(c, neighbours=True)


def config_to_gguf(c: Config) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config as a `.gguf` says it: metadata, and tensors. UsageError for what it cannot say."""
    return said(c, "llama")


def config_from_gguf(m: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Config:
    """The config that a `.gguf` spells out."""
    attention, mlp = "blk.0.attn_q.bias" in tensors, "blk.0.ffn_gate.bias" in tensors
    return Config(**heard(m, tensors, "llama"), attention_bias=attention, mlp_bias=mlp)
