"""The first Transformer (Vaswani et al., arXiv 1706.03762), and either half of it alone: built here, not downloaded.

    ids ── encoder: embed · √width + positions ──[ attn ─(+)─ norm ─ mlp ─(+)─ norm ] × layers ── memory
                                                                                                     │
    ids ── decoder: embed · √width + positions ──[ attn ─(+)─ norm ─ cross ─(+)─ norm ─ mlp ─(+)─ norm ] × layers ── head

With `encoder_layers` null it is a decoder alone, with `decoder_layers` null an encoder alone. Files name the tensors as
`torch.nn.Transformer`, `nn.TransformerEncoder` (either half alone) and their layers do.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from groundup.core.config import FamilyConfig
from groundup.core.errors import UsageError
from groundup.core.rules import Rules, rules
from groundup.nn.attention import Attention
from groundup.nn.block import Block, Branch
from groundup.nn.embed import Embed
from groundup.nn.linear import Embedding, Linear, tie
from groundup.nn.mlp import MLP
from groundup.nn.norms import LayerNorm
from groundup.nn.positions import Sinusoidal
from groundup.nn.stack import Decoder, Encoder, EncoderDecoder, Stack


class Config(FamilyConfig):
    """The settings of the paper's base model; `config.json` is ours, since no library has this family.

    positions     a number is how many learned ones there are; null: waves, which have no end
    scaled        whether the tokens' vectors enter times √width
    head          whether there is one; tied, it is the tokens' table (an encoder-decoder's halves always share theirs)
    """

    model_type: Literal["transformer"] = "transformer"
    vocab_size: int = 37000
    d_model: int = 512
    num_heads: int = 8
    d_ff: int = 2048
    encoder_layers: int | None = 6
    decoder_layers: int | None = 6
    activation: str = "relu"
    positions: int | None = None
    layer_norm_eps: float = 1e-5
    scaled: bool = True
    head: bool = True
    head_bias: bool = False
    tie_word_embeddings: bool = True

    IGNORED: ClassVar = {"is_encoder_decoder": (True, False)}
    SPELLINGS: ClassVar = {"hidden_size": "d_model", "num_attention_heads": "num_heads"}

    @property
    def context(self) -> int | None:
        return self.positions


def build(c: Config) -> Decoder | EncoderDecoder:
    """The network of this config, with no numbers in it yet."""

    def after(name: str, core: MLP | Attention) -> Branch:
        return Branch(name, core, after=LayerNorm(c.d_model, eps=c.layer_norm_eps))

    def block(*, causal: bool, cross: bool = False) -> Block:
        mlp = after("mlp", MLP(c.d_model, c.d_ff, act=c.activation))
        attn = after("attn", Attention(c.d_model, heads=c.num_heads, causal=causal))
        if not cross:
            return Block(attn, mlp)
        return Block(attn, after("cross", Attention(c.d_model, heads=c.num_heads, memory_width=c.d_model)), mlp)

    def embed(tokens: Embedding) -> Embed:
        places = Sinusoidal(c.d_model) if c.positions is None else Embedding(c.positions, c.d_model)
        return Embed(tokens, positions=places, scale=c.d_model**0.5 if c.scaled else 1.0)

    tokens = Embedding(c.vocab_size, c.d_model)
    head = Linear(c.d_model, c.vocab_size, bias=c.head_bias) if c.head else None
    if c.tie_word_embeddings and head is not None:
        tie(head, tokens)
    if c.encoder_layers is None and c.decoder_layers is not None:
        return Decoder(embed(tokens), [block(causal=True) for _ in range(c.decoder_layers)], head=head)
    if c.encoder_layers is None:
        raise UsageError("a transformer without encoder_layers and without decoder_layers has nothing in it")
    if c.decoder_layers is None:
        return Encoder(embed(tokens), [block(causal=False) for _ in range(c.encoder_layers)], head=head)
    if head is None:
        raise UsageError("head: an encoder-decoder without one has nothing to say; leave `head` out")
    same = Embedding(c.vocab_size, c.d_model)
    tie(same, tokens)
    return EncoderDecoder(
        Stack(embed(tokens), [block(causal=False) for _ in range(c.encoder_layers)]),
        Stack(embed(same), [block(causal=True, cross=True) for _ in range(c.decoder_layers)]),
        head=head,
    )


def hugging_face(c: Config) -> Rules:
    """Names in `model.safetensors`: what `embed`, `positions`, PyTorch's own modules and `head` call theirs."""
    if c.encoder_layers is None or c.decoder_layers is None:
        return rules(*_half("", "", cross=False), "head.weight -> head.weight | tie(embed.tokens.weight)", *HEAD_BIAS)
    return rules(
        *_half("encoder.", "encoder.", cross=False),
        *_half("decoder.", "decoder.", cross=True, tied="encoder.embed.tokens.weight"),
        "head.weight -> head.weight | tie(encoder.embed.tokens.weight)",
        *HEAD_BIAS,
    )


HEAD_BIAS = ("head.bias -> head.bias",)


def _half(source: str, target: str, *, cross: bool, tied: str = "") -> list[str]:
    """The table of one stack; norms are numbered there in the order in which they come."""
    parts = [("self_attn", "attn"), *([("multihead_attn", "cross")] if cross else [])]
    there, here = source + "layers.{i}", target + "blocks.{i}"
    lines = [f"{source}embed.weight -> {target}embed.tokens.weight {f'| tie({tied})' if tied else ''}"]
    lines += [f"{source}positions.weight -> {target}embed.positions.weight"]
    for theirs, ours in parts:
        lines += [
            f"{there}.{theirs}.in_proj_weight  -> {here}.{ours}.{{q,k,v}}.weight | split",
            f"{there}.{theirs}.in_proj_bias    -> {here}.{ours}.{{q,k,v}}.bias   | split",
        ]
    for kind in ("weight", "bias"):
        lines += [f"{there}.{theirs}.out_proj.{kind} -> {here}.{ours}.o.{kind}" for theirs, ours in parts]
        lines += [
            f"{there}.linear1.{kind} -> {here}.mlp.up.{kind}",
            f"{there}.linear2.{kind} -> {here}.mlp.down.{kind}",
        ]
        norms = [*(ours for _, ours in parts), "mlp"]
        lines += [f"{there}.norm{n}.{kind} -> {here}.{ours}_norm.{kind}" for n, ours in enumerate(norms, 1)]
    return lines
