"""GPT-2 (Radford et al., 2019): a decoder with learned positions and LayerNorm before each half.

ids ── embed + positions ──[ norm ─ attn ─(+)─ norm ─ mlp ─(+) ] × layers ── norm ── head ── logits
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor

from groundup.core.config import ANY, FamilyConfig
from groundup.core.errors import UsageError
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


def gguf(c: Config) -> Rules:
    """Names in a `.gguf`; matrices stand there as [out, in], q, k and v one over the other."""
    return rules(
        "token_embd.weight            -> embed.tokens.weight",
        "position_embd.weight         -> embed.positions.weight",
        "blk.{i}.attn_norm.weight     -> blocks.{i}.attn_norm.weight",
        "blk.{i}.attn_norm.bias       -> blocks.{i}.attn_norm.bias",
        "blk.{i}.attn_qkv.weight      -> blocks.{i}.attn.{q,k,v}.weight | split",
        "blk.{i}.attn_qkv.bias        -> blocks.{i}.attn.{q,k,v}.bias   | split",
        "blk.{i}.attn_output.weight   -> blocks.{i}.attn.o.weight",
        "blk.{i}.attn_output.bias     -> blocks.{i}.attn.o.bias",
        "blk.{i}.ffn_norm.weight      -> blocks.{i}.mlp_norm.weight",
        "blk.{i}.ffn_norm.bias        -> blocks.{i}.mlp_norm.bias",
        "blk.{i}.ffn_up.weight        -> blocks.{i}.mlp.up.weight",
        "blk.{i}.ffn_up.bias          -> blocks.{i}.mlp.up.bias",
        "blk.{i}.ffn_down.weight      -> blocks.{i}.mlp.down.weight",
        "blk.{i}.ffn_down.bias        -> blocks.{i}.mlp.down.bias",
        "output_norm.weight           -> norm.weight",
        "output_norm.bias             -> norm.bias",
        "output.weight                -> head.weight | tie(embed.tokens.weight)",
    )


def config_to_gguf(c: Config) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config as a `.gguf` says it: metadata, and no tensors. UsageError for what it cannot say."""
    if c.activation_function not in ("gelu_new", "gelu_pytorch_tanh"):
        raise UsageError(f"a .gguf cannot say that a gpt2 has activation_function {c.activation_function!r}")
    if not c.scale_attn_weights or c.scale_attn_by_inverse_layer_idx:
        raise UsageError("a .gguf cannot say that a gpt2 scales its scores otherwise: save it as a folder")
    return {
        "general.architecture": "gpt2",
        "gpt2.context_length": c.n_positions,
        "gpt2.embedding_length": c.n_embd,
        "gpt2.block_count": c.n_layer,
        "gpt2.feed_forward_length": c.n_inner or 4 * c.n_embd,
        "gpt2.attention.head_count": c.n_head,
        "gpt2.attention.layer_norm_epsilon": c.layer_norm_epsilon,
    }, {}


def config_from_gguf(m: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Config:
    """The config that a `.gguf` spells out."""
    width, inner = m["gpt2.embedding_length"], m["gpt2.feed_forward_length"]
    return Config(
        vocab_size=len(m["tokenizer.ggml.tokens"]),
        n_positions=m["gpt2.context_length"],
        n_embd=width,
        n_layer=m["gpt2.block_count"],
        n_head=m["gpt2.attention.head_count"],
        n_inner=None if inner == 4 * width else inner,
        layer_norm_epsilon=float(m["gpt2.attention.layer_norm_epsilon"]),
        tie_word_embeddings="output.weight" not in tensors,
    )
