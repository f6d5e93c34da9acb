"""The first GPT (Radford et al., 2018): a decoder with learned positions, and LayerNorm on every sum.

ids ── embed + positions ──[ attn ─(+)─ norm ─ mlp ─(+)─ norm ] × layers ── head ── logits
"""

from __future__ import annotations

from typing import ClassVar, Literal

from groundup.core.config import ANY, FamilyConfig
from groundup.core.rules import Rules, rules
from groundup.nn.attention import Attention
from groundup.nn.block import Block, Branch
from groundup.nn.embed import Embed
from groundup.nn.linear import Embedding, Linear, tie
from groundup.nn.mlp import MLP
from groundup.nn.norms import LayerNorm
from groundup.nn.stack import Decoder


class Config(FamilyConfig):
    """The public keys of the first GPT's `config.json`."""

    model_type: Literal["openai-gpt"] = "openai-gpt"
    vocab_size: int = 40478
    n_positions: int = 512
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    afn: Literal["gelu", "relu", "silu", "swish"] = "gelu"
    layer_norm_epsilon: float = 1e-5
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
        "predict_special_tokens": ANY,
        "n_special": ANY,
        "n_ctx": ANY,
    }
    SPELLINGS: ClassVar = {
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "n_positions",
    }
    ARCHITECTURES = ("OpenAIGPTLMHeadModel", "OpenAIGPTModel")

    @property
    def context(self) -> int:
        return self.n_positions


def build(c: Config) -> Decoder:
    """The network of this config, with no numbers in it yet."""
    act = "gelu_new" if c.afn == "gelu" else c.afn

    def norm() -> LayerNorm:
        return LayerNorm(c.n_embd, eps=c.layer_norm_epsilon)

    def block() -> Block:
        attention = Attention(c.n_embd, heads=c.n_head, causal=True)
        mlp = MLP(c.n_embd, 4 * c.n_embd, act=act)
        return Block(Branch("attn", attention, after=norm()), Branch("mlp", mlp, after=norm()))

    tokens = Embedding(c.vocab_size, c.n_embd)
    head = Linear(c.n_embd, c.vocab_size, bias=False)
    if c.tie_word_embeddings:
        tie(head, tokens)
    embed = Embed(tokens, positions=Embedding(c.n_positions, c.n_embd))
    return Decoder(embed, [block() for _ in range(c.n_layer)], head=head)


def hugging_face(c: Config) -> Rules:
    """Names in `model.safetensors`: those of GPT-2's blocks, and names of its own for the rest."""
    return rules(
        "tokens_embed.weight          -> embed.tokens.weight",
        "positions_embed.weight       -> embed.positions.weight",
        "h.{i}.attn.c_attn.weight     -> blocks.{i}.attn.{q,k,v}.weight | transpose split",
        "h.{i}.attn.c_attn.bias       -> blocks.{i}.attn.{q,k,v}.bias   | split",
        "h.{i}.attn.c_proj.weight     -> blocks.{i}.attn.o.weight       | transpose",
        "h.{i}.attn.c_proj.bias       -> blocks.{i}.attn.o.bias",
        "h.{i}.ln_1.weight            -> blocks.{i}.attn_norm.weight",
        "h.{i}.ln_1.bias              -> blocks.{i}.attn_norm.bias",
        "h.{i}.mlp.c_fc.weight        -> blocks.{i}.mlp.up.weight       | transpose",
        "h.{i}.mlp.c_fc.bias          -> blocks.{i}.mlp.up.bias",
        "h.{i}.mlp.c_proj.weight      -> blocks.{i}.mlp.down.weight     | transpose",
        "h.{i}.mlp.c_proj.bias        -> blocks.{i}.mlp.down.bias",
        "h.{i}.ln_2.weight            -> blocks.{i}.mlp_norm.weight",
        "h.{i}.ln_2.bias              -> blocks.{i}.mlp_norm.bias",
        "/lm_head.weight              -> head.weight                    | tie(embed.tokens.weight)",
        "h.{i}.attn.bias              -> ignore",  # the causal triangle that old files carry
        "position_ids                 -> ignore",  # 0 1 2 ...
        prefix="transformer.",
    )
