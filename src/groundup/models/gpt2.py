"""GPT-2 (Radford et al., 2019): a decoder with learned positions and LayerNorm before each half.

ids ── embed + positions ──[ norm ─ attn ─(+)─ norm ─ mlp ─(+) ] × layers ── norm ── head ── logits
"""

from __future__ import annotations

from typing import ClassVar, Literal

from groundup.core.config import ANY, FamilyConfig
from groundup.core.labels import SCORES, lines
from groundup.core.rules import Rules, rules
from groundup.nn.attention import Attention
from groundup.nn.block import Block, Branch
from groundup.nn.embed import Embed
from groundup.nn.linear import Embedding, Linear, tie
from groundup.nn.mlp import MLP
from groundup.nn.norms import LayerNorm
from groundup.nn.stack import Decoder

LABELS = SCORES


class Config(FamilyConfig):
    """The public keys of a GPT-2 `config.json`."""

    model_type: Literal["gpt2"] = "gpt2"
    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    tie_word_embeddings: bool = True

    IGNORED: ClassVar = {
        "attn_pdrop": ANY,
        "embd_pdrop": ANY,
        "resid_pdrop": ANY,
        "summary_activation": ANY,
        "summary_first_dropout": ANY,
        "summary_proj_to_labels": ANY,
        "summary_type": ANY,
        "summary_use_proj": ANY,
        "reorder_and_upcast_attn": ANY,  # the order of roundings in half precision, not the mathematics
        "n_ctx": ANY,
    }
    SPELLINGS: ClassVar = {
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "n_positions",
    }
    ARCHITECTURES = ("GPT2LMHeadModel", "GPT2Model")

    @property
    def context(self) -> int:
        return self.n_positions


def build(c: Config) -> Decoder:
    """The network of this config, with no numbers in it yet."""

    def norm() -> LayerNorm:
        return LayerNorm(c.n_embd, eps=c.layer_norm_epsilon)

    def block(layer: int) -> Block:
        scale = (c.n_embd // c.n_head) ** -0.5 if c.scale_attn_weights else 1.0
        if c.scale_attn_by_inverse_layer_idx:
            scale /= layer + 1
        attention = Attention(c.n_embd, heads=c.n_head, causal=True, scale=scale)
        mlp = MLP(c.n_embd, c.n_inner or 4 * c.n_embd, act=c.activation_function)
        return Block(Branch("attn", attention, before=norm()), Branch("mlp", mlp, before=norm()))

    tokens = Embedding(c.vocab_size, c.n_embd)
    head = Linear(c.n_embd, c.vocab_size, bias=False)
    if c.tie_word_embeddings:
        tie(head, tokens)
    embed = Embed(tokens, positions=Embedding(c.n_positions, c.n_embd))
    return Decoder(embed, [block(i) for i in range(c.n_layer)], norm=norm(), head=head)


def hugging_face(c: Config) -> Rules:
    """Names in `model.safetensors`; matrices stand there as [in, out], q, k and v side by side."""
    return rules(
        *lines(c.labels, LABELS),
        "wte.weight                   -> embed.tokens.weight",
        "wpe.weight                   -> embed.positions.weight",
        "h.{i}.ln_1.weight            -> blocks.{i}.attn_norm.weight",
        "h.{i}.ln_1.bias              -> blocks.{i}.attn_norm.bias",
        "h.{i}.attn.c_attn.weight     -> blocks.{i}.attn.{q,k,v}.weight | transpose split",
        "h.{i}.attn.c_attn.bias       -> blocks.{i}.attn.{q,k,v}.bias   | split",
        "h.{i}.attn.c_proj.weight     -> blocks.{i}.attn.o.weight       | transpose",
        "h.{i}.attn.c_proj.bias       -> blocks.{i}.attn.o.bias",
        "h.{i}.ln_2.weight            -> blocks.{i}.mlp_norm.weight",
        "h.{i}.ln_2.bias              -> blocks.{i}.mlp_norm.bias",
        "h.{i}.mlp.c_fc.weight        -> blocks.{i}.mlp.up.weight       | transpose",
        "h.{i}.mlp.c_fc.bias          -> blocks.{i}.mlp.up.bias",
        "h.{i}.mlp.c_proj.weight      -> blocks.{i}.mlp.down.weight     | transpose",
        "h.{i}.mlp.c_proj.bias        -> blocks.{i}.mlp.down.bias",
        "ln_f.weight                  -> norm.weight",
        "ln_f.bias                    -> norm.bias",
        "/lm_head.weight              -> head.weight                    | tie(embed.tokens.weight)",
        "h.{i}.attn.bias              -> ignore",  # the causal triangle that old files carry
        "h.{i}.attn.masked_bias       -> ignore",
        prefix="transformer.",
    )
