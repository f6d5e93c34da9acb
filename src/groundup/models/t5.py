"""T5 (Raffel et al., arXiv 1910.10683) and its v1.1: encoder and decoder with RMSNorm and learned distance buckets.

    ids ── encoder: embed ──[ norm ─ attn ─(+)─ norm ─ mlp ─(+) ] × layers ── norm ── memory
                                                                                        │
    ids ── decoder: embed ──[ norm ─ attn ─(+)─ norm ─ cross ─(+)─ norm ─ mlp ─(+) ] × layers ── norm ── head ── logits

Scores are not scaled, no linear has a bias, and each stack's blocks share one table of distance buckets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

from torch import nn

from groundup.core.config import ANY, FamilyConfig
from groundup.core.errors import UsageError
from groundup.core.rules import Rules, rules
from groundup.nn.attention import Attention
from groundup.nn.block import Block, Branch
from groundup.nn.embed import Embed
from groundup.nn.linear import Embedding, Linear, tie
from groundup.nn.mlp import MLP, GatedMLP
from groundup.nn.norms import RMSNorm
from groundup.nn.positions import RelativeBias
from groundup.nn.stack import EncoderDecoder, Stack


class Config(FamilyConfig):
    """The public keys of a T5 `config.json`."""

    model_type: Literal["t5"] = "t5"
    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_decoder_layers: int | None = None
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "relu"
    tie_word_embeddings: bool = True
    scale_decoder_outputs: bool | None = None

    IGNORED: ClassVar = {
        "dropout_rate": ANY,
        "classifier_dropout": ANY,
        "n_positions": ANY,  # of training; distances have no table that ends there
        "is_encoder_decoder": (True,),
    }
    SPELLINGS: ClassVar = {
        "hidden_size": "d_model",
        "head_dim": "d_kv",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
    }
    ARCHITECTURES = ("T5ForConditionalGeneration", "T5Model")

    @classmethod
    def prepare(cls, public: dict[str, Any]) -> dict[str, Any]:
        """Older files say with the tie alone whether the output is scaled; newer ones repeat `feed_forward_proj`."""
        public = dict(public)
        said = public.get("feed_forward_proj", "relu")
        for key, value in (("dense_act_fn", _activation(said)), ("is_gated_act", _gated(said))):
            if public.pop(key, value) != value:
                raise UsageError(f"config.json: {key} contradicts feed_forward_proj = {said!r}; remove {key}")
        public.setdefault("scale_decoder_outputs", public.get("tie_word_embeddings", True))
        return public

    def to_public(self) -> dict[str, Any]:
        return {**super().to_public(), "scale_decoder_outputs": self.scales_output}

    @property
    def context(self) -> None:
        """Unlimited: far distances share a bucket."""
        return None

    @property
    def decoder_layers(self) -> int:
        return self.num_layers if self.num_decoder_layers is None else self.num_decoder_layers

    @property
    def scales_output(self) -> bool:
        """The first T5 multiplies by d_model ** -0.5 before its tied head, v1.1 has neither; but they are two facts."""
        return self.tie_word_embeddings if self.scale_decoder_outputs is None else self.scale_decoder_outputs


def _gated(feed_forward_proj: str) -> bool:
    return feed_forward_proj.startswith("gated-")


def _activation(feed_forward_proj: str) -> str:
    return "gelu_new" if feed_forward_proj == "gated-gelu" else feed_forward_proj.removeprefix("gated-")


def dense_mlp(c: Config) -> nn.Module:
    """An MLP of this config, without biases."""
    kind = GatedMLP if _gated(c.feed_forward_proj) else MLP
    return kind(c.d_model, c.d_ff, act=_activation(c.feed_forward_proj), bias=False)


def build(c: Config, mlp_of: Callable[[str, int], nn.Module] | None = None) -> EncoderDecoder:
    """The network of this config, with no numbers in it yet. mlp_of: a layer's MLP in `encoder` or `decoder`."""

    def norm() -> RMSNorm:
        return RMSNorm(c.d_model, eps=c.layer_norm_epsilon)

    def bias(both_ways: bool) -> RelativeBias:
        buckets, furthest = c.relative_attention_num_buckets, c.relative_attention_max_distance
        return RelativeBias(c.num_heads, buckets=buckets, furthest=furthest, both_ways=both_ways)

    def attention(**how: Any) -> Attention:
        return Attention(c.d_model, heads=c.num_heads, head_dim=c.d_kv, scale=1.0, bias=False, **how)

    def mlp(half: str, layer: int) -> Branch:
        return Branch("mlp", dense_mlp(c) if mlp_of is None else mlp_of(half, layer), before=norm())

    def encoder_block(layer: int) -> Block:
        return Block(Branch("attn", attention(score_bias=both_ways), before=norm()), mlp("encoder", layer))

    def decoder_block(layer: int) -> Block:
        return Block(
            Branch("attn", attention(score_bias=backwards, causal=True), before=norm()),
            Branch("cross", attention(memory_width=c.d_model), before=norm()),
            mlp("decoder", layer),
        )

    both_ways, backwards = bias(both_ways=True), bias(both_ways=False)
    tokens, same = Embedding(c.vocab_size, c.d_model), Embedding(c.vocab_size, c.d_model)
    tie(same, tokens)
    head = Linear(c.d_model, c.vocab_size, bias=False)
    if c.tie_word_embeddings:
        tie(head, tokens)
    return EncoderDecoder(
        Stack(Embed(tokens), [encoder_block(i) for i in range(c.num_layers)], norm=norm(), bias=both_ways),
        Stack(Embed(same), [decoder_block(i) for i in range(c.decoder_layers)], norm=norm(), bias=backwards),
        head=head,
        head_scale=c.d_model**-0.5 if c.scales_output else 1.0,
    )


def hugging_face(c: Config) -> Rules:
    """Names in `model.safetensors`; a block's parts are numbered there: attention, (cross-attention,) MLP."""
    encoder, decoder = "encoder.block.{i}.layer.1.DenseReluDense", "decoder.block.{i}.layer.2.DenseReluDense"
    inner: tuple[str, ...]
    if _gated(c.feed_forward_proj):
        inner = (
            f"{encoder}.wi_0.weight -> encoder.blocks.{{i}}.mlp.gate.weight",
            f"{encoder}.wi_1.weight -> encoder.blocks.{{i}}.mlp.up.weight",
            f"{decoder}.wi_0.weight -> decoder.blocks.{{i}}.mlp.gate.weight",
            f"{decoder}.wi_1.weight -> decoder.blocks.{{i}}.mlp.up.weight",
        )
    else:
        inner = (
            f"{encoder}.wi.weight -> encoder.blocks.{{i}}.mlp.up.weight",
            f"{decoder}.wi.weight -> decoder.blocks.{{i}}.mlp.up.weight",
        )
    return rules(
        "shared.weight                                     -> encoder.embed.tokens.weight",
        "encoder.embed_tokens.weight                       -> encoder.embed.tokens.weight",  # once more, in old files
        "decoder.embed_tokens.weight -> decoder.embed.tokens.weight | tie(encoder.embed.tokens.weight)",
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight -> encoder.bias.table.weight",
        "encoder.block.{i}.layer.0.layer_norm.weight       -> encoder.blocks.{i}.attn_norm.weight",
        "encoder.block.{i}.layer.0.SelfAttention.q.weight  -> encoder.blocks.{i}.attn.q.weight",
        "encoder.block.{i}.layer.0.SelfAttention.k.weight  -> encoder.blocks.{i}.attn.k.weight",
        "encoder.block.{i}.layer.0.SelfAttention.v.weight  -> encoder.blocks.{i}.attn.v.weight",
        "encoder.block.{i}.layer.0.SelfAttention.o.weight  -> encoder.blocks.{i}.attn.o.weight",
        "encoder.block.{i}.layer.1.layer_norm.weight       -> encoder.blocks.{i}.mlp_norm.weight",
        f"{encoder}.wo.weight                              -> encoder.blocks.{{i}}.mlp.down.weight",
        "encoder.final_layer_norm.weight                   -> encoder.norm.weight",
        "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight -> decoder.bias.table.weight",
        "decoder.block.{i}.layer.0.layer_norm.weight       -> decoder.blocks.{i}.attn_norm.weight",
        "decoder.block.{i}.layer.0.SelfAttention.q.weight  -> decoder.blocks.{i}.attn.q.weight",
        "decoder.block.{i}.layer.0.SelfAttention.k.weight  -> decoder.blocks.{i}.attn.k.weight",
        "decoder.block.{i}.layer.0.SelfAttention.v.weight  -> decoder.blocks.{i}.attn.v.weight",
        "decoder.block.{i}.layer.0.SelfAttention.o.weight  -> decoder.blocks.{i}.attn.o.weight",
        "decoder.block.{i}.layer.1.layer_norm.weight       -> decoder.blocks.{i}.cross_norm.weight",
        "decoder.block.{i}.layer.1.EncDecAttention.q.weight -> decoder.blocks.{i}.cross.q.weight",
        "decoder.block.{i}.layer.1.EncDecAttention.k.weight -> decoder.blocks.{i}.cross.k.weight",
        "decoder.block.{i}.layer.1.EncDecAttention.v.weight -> decoder.blocks.{i}.cross.v.weight",
        "decoder.block.{i}.layer.1.EncDecAttention.o.weight -> decoder.blocks.{i}.cross.o.weight",
        "decoder.block.{i}.layer.2.layer_norm.weight       -> decoder.blocks.{i}.mlp_norm.weight",
        f"{decoder}.wo.weight                              -> decoder.blocks.{{i}}.mlp.down.weight",
        "decoder.final_layer_norm.weight                   -> decoder.norm.weight",
        "lm_head.weight                                    -> head.weight | tie(encoder.embed.tokens.weight)",
        # the first files have a table for the distance to the memory, which nothing reads
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight -> ignore",
        *inner,
    )
