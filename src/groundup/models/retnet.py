"""RetNet (Sun et al., arXiv 2307.08621): a decoder with retention in place of attention, built here and not downloaded.

    ids ── embed ──[ norm ─ retention ─(+)─ norm ─ gated mlp ─(+) ] × layers ── norm ── head ── logits

Decoding keeps one state a head, of one size however long the text is. Files name the tensors as torchscale's
RetNetDecoder does, which pairs neighbours where a head turns.
"""

from __future__ import annotations

from typing import Literal

import torch

from groundup.core.config import FamilyConfig
from groundup.core.rules import Rules, rules
from groundup.nn.block import Block, Branch
from groundup.nn.embed import Embed
from groundup.nn.linear import Embedding, Linear, tie
from groundup.nn.mlp import GatedMLP
from groundup.nn.norms import RMSNorm
from groundup.nn.positions import Rotary
from groundup.nn.retention import Retention
from groundup.nn.stack import Decoder


class Config(FamilyConfig):
    """The settings of a RetNet; `config.json` is ours.

    value_size  width of all heads' values (null: twice hidden_size)
    """

    model_type: Literal["retnet"] = "retnet"
    vocab_size: int = 32000
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_heads: int = 3
    value_size: int | None = None
    intermediate_size: int = 1280
    hidden_act: str = "gelu"
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = True

    @property
    def values(self) -> int:
        return self.value_size or 2 * self.hidden_size


def build(c: Config) -> Decoder:
    """The network of this config, with no numbers in it yet."""
    pairs = c.hidden_size // c.num_heads // 2
    turning = Rotary((1.0 / 10000 ** torch.linspace(0, 1, pairs, device="cpu")).tolist())

    def norm() -> RMSNorm:
        return RMSNorm(c.hidden_size, eps=c.rms_norm_eps)

    def block() -> Block:
        mix = Retention(
            c.hidden_size, heads=c.num_heads, rotary=turning, value_dim=c.values // c.num_heads, eps=c.rms_norm_eps
        )
        mlp = GatedMLP(c.hidden_size, c.intermediate_size, act=c.hidden_act)
        return Block(Branch("mix", mix, before=norm()), Branch("mlp", mlp, before=norm()))

    tokens, head = Embedding(c.vocab_size, c.hidden_size), Linear(c.hidden_size, c.vocab_size, bias=False)
    if c.tie_word_embeddings:
        tie(head, tokens)
    return Decoder(Embed(tokens), [block() for _ in range(c.num_hidden_layers)], norm=norm(), head=head)


def hugging_face(c: Config) -> Rules:
    """Names in `model.safetensors`."""
    return rules(
        "embed_tokens.weight                     -> embed.tokens.weight",
        "layers.{i}.retention_layer_norm.weight  -> blocks.{i}.mix_norm.weight",
        f"layers.{{i}}.retention.q_proj.weight   -> blocks.{{i}}.mix.q.weight | rotary({c.num_heads})",
        f"layers.{{i}}.retention.k_proj.weight   -> blocks.{{i}}.mix.k.weight | rotary({c.num_heads})",
        "layers.{i}.retention.v_proj.weight      -> blocks.{i}.mix.v.weight",
        "layers.{i}.retention.g_proj.weight      -> blocks.{i}.mix.gate.weight",
        "layers.{i}.retention.out_proj.weight    -> blocks.{i}.mix.o.weight",
        "layers.{i}.final_layer_norm.weight      -> blocks.{i}.mlp_norm.weight",
        "layers.{i}.ffn.fc1.weight               -> blocks.{i}.mlp.gate.weight",
        "layers.{i}.ffn.gate.weight              -> blocks.{i}.mlp.up.weight",
        "layers.{i}.ffn.fc2.weight               -> blocks.{i}.mlp.down.weight",
        "layer_norm.weight                       -> norm.weight",
        "output_projection.weight                -> head.weight | tie(embed.tokens.weight)",
    )
