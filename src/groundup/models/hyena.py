"""A decoder with Hyena operators in place of attention (Poli et al., arXiv 2302.10866), built here and not downloaded.

    ids ── embed ──[ norm ─ hyena ─(+)─ norm ─ mlp ─(+) ] × layers ── norm ── head ── logits

Files name an operator's tensors as the authors' standalone code does; short filters and the sines' speed stand there
with an axis of length 1 more.
"""

from __future__ import annotations

from typing import Literal

from groundup.core.config import FamilyConfig
from groundup.core.rules import Rules, rules
from groundup.nn.block import Block, Branch
from groundup.nn.embed import Embed
from groundup.nn.hyena import Hyena
from groundup.nn.linear import Embedding, Linear, tie
from groundup.nn.mlp import MLP
from groundup.nn.norms import LayerNorm
from groundup.nn.stack import Decoder


class Config(FamilyConfig):
    """The settings of a Hyena decoder; `config.json` is ours.

    max_length    the longest row, which the filters span
    order         gates in each operator, one more than its long convolutions
    filter_order  width of the MLP that makes the filters
    filter_bands  waves of the place that it is shown
    """

    model_type: Literal["hyena"] = "hyena"
    vocab_size: int = 32000
    hidden_size: int = 768
    num_hidden_layers: int = 12
    intermediate_size: int = 3072
    max_length: int = 1024
    order: int = 2
    filter_order: int = 64
    filter_bands: int = 8
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    tie_word_embeddings: bool = True

    @property
    def context(self) -> int:
        return self.max_length


def build(c: Config) -> Decoder:
    """The network of this config, with no numbers in it yet."""

    def norm() -> LayerNorm:
        return LayerNorm(c.hidden_size, eps=c.layer_norm_eps)

    def block() -> Block:
        mix = Hyena(c.hidden_size, context=c.max_length, order=c.order, inner=c.filter_order, bands=c.filter_bands)
        mlp = MLP(c.hidden_size, c.intermediate_size, act=c.hidden_act)
        return Block(Branch("mix", mix, before=norm()), Branch("mlp", mlp, before=norm()))

    tokens, head = Embedding(c.vocab_size, c.hidden_size), Linear(c.hidden_size, c.vocab_size, bias=False)
    if c.tie_word_embeddings:
        tie(head, tokens)
    return Decoder(Embed(tokens), [block() for _ in range(c.num_hidden_layers)], norm=norm(), head=head)


def hugging_face(c: Config) -> Rules:
    """Names in `model.safetensors`."""
    both = [
        (f"{theirs}.{kind}", f"{ours}.{kind}")
        for kind in ("weight", "bias")
        for theirs, ours in (
            ("layers.{i}.norm1", "blocks.{i}.mix_norm"),
            ("layers.{i}.mixer.in_proj", "blocks.{i}.mix.proj"),
            *(
                (f"layers.{{i}}.mixer.filter_fn.implicit_filter.{2 * j}", f"blocks.{{i}}.mix.filter.layers.{j}")
                for j in range(3)
            ),
            ("layers.{i}.mixer.out_proj", "blocks.{i}.mix.o"),
            ("layers.{i}.norm2", "blocks.{i}.mlp_norm"),
            ("layers.{i}.mlp.fc1", "blocks.{i}.mlp.up"),
            ("layers.{i}.mlp.fc2", "blocks.{i}.mlp.down"),
            ("ln_f", "norm"),
        )
    ]
    return rules(
        "embed_tokens.weight                             -> embed.tokens.weight",
        *(f"{theirs} -> {ours}" for theirs, ours in both),
        "layers.{i}.mixer.short_filter.weight            -> blocks.{i}.mix.short",
        "layers.{i}.mixer.short_filter.bias              -> blocks.{i}.mix.short_bias",
        "layers.{i}.mixer.filter_fn.implicit_filter.1.freq   -> blocks.{i}.mix.filter.turns",
        "layers.{i}.mixer.filter_fn.implicit_filter.6.weight -> blocks.{i}.mix.filter.out.weight",
        "layers.{i}.mixer.filter_fn.bias                 -> blocks.{i}.mix.skip",
        "lm_head.weight                                  -> head.weight | tie(embed.tokens.weight)",
    )
