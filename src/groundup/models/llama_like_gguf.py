"""Llama and its kin in a GGUF file: the tensors' names, and the config as metadata under llama.cpp's keys, both ways.

A family of this kind calls `names`, `said` and `heard` with its architecture; what GGUF has no key for is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from groundup.core.errors import UsageError
from groundup.core.rules import Rules, rules
from groundup.models.llama_like import LlamaLike
from groundup.nn.positions import frequencies, scaled_llama3, yarn_temperature

TABLE = "rope_freqs.weight"  # Llama 3's scaling: what each pair's frequency is divided by
PUBLISHED = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
YARN = {"beta_fast": (None, 32.0), "beta_slow": (None, 1.0), "truncate": (None, True)}  # what llama.cpp computes with


def names(c: LlamaLike, *, neighbours: bool) -> Rules:
    """Names in a `.gguf`. neighbours: q and k are stored with the two numbers of a pair side by side, as for Llama."""
    turned = {"q": c.num_attention_heads, "k": c.kv_heads} if neighbours else {}
    halves = ("attn_q", "attn.q"), ("attn_k", "attn.k"), ("attn_v", "attn.v"), ("attn_output", "attn.o")
    mlp = ("ffn_gate", "mlp.gate"), ("ffn_up", "mlp.up"), ("ffn_down", "mlp.down")
    return rules(
        "token_embd.weight            -> embed.tokens.weight",
        "blk.{i}.attn_norm.weight     -> blocks.{i}.attn_norm.weight",
        "blk.{i}.attn_q_norm.weight   -> blocks.{i}.attn.q_norm.weight",
        "blk.{i}.attn_k_norm.weight   -> blocks.{i}.attn.k_norm.weight",
        "blk.{i}.ffn_norm.weight      -> blocks.{i}.mlp_norm.weight",
        *(
            f"blk.{{i}}.{theirs}.{last} -> blocks.{{i}}.{ours}.{last}"
            + (f" | rotary({turned[ours[-1]]})" if ours[-1] in turned else "")
            for theirs, ours in halves + mlp
            for last in ("weight", "bias")
        ),
        "output_norm.weight           -> norm.weight",
        "output.weight                -> head.weight | tie(embed.tokens.weight)",
        f"{TABLE}                     -> ignore",
    )


def said(
    c: LlamaLike, architecture: str, windows: Iterable[int | None] = ()
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config as metadata, and the tensors that say the rest of it.

    windows  how far back layers look
    Raises UsageError for what llama.cpp has no key for in this architecture.
    """
    family = c.family()
    if c.hidden_act not in ("silu", "swish"):
        raise UsageError(f"a .gguf cannot say that a {family} has hidden_act {c.hidden_act!r}: save it as a folder")
    narrow = [w for w in windows if w is not None and w < c.max_position_embeddings]
    if narrow:
        raise UsageError(
            f"a .gguf cannot say that a {family} looks back {narrow[0]} tokens of {c.max_position_embeddings}: save it as "
            "a folder"
        )
    scaling, table = _said_scaling(c, architecture)
    values = {
        "vocab_size": c.vocab_size,
        "context_length": c.max_position_embeddings,
        "embedding_length": c.hidden_size,
        "block_count": c.num_hidden_layers,
        "feed_forward_length": c.intermediate_size,
        "rope.dimension_count": c.width_of_head,
        "rope.freq_base": _base(c),
        "attention.head_count": c.num_attention_heads,
        "attention.head_count_kv": c.kv_heads,
        "attention.key_length": c.width_of_head,
        "attention.value_length": c.width_of_head,
        "attention.layer_norm_rms_epsilon": c.rms_norm_eps,
    }
    found = {"general.architecture": architecture} | {f"{architecture}.{key}": value for key, value in values.items()}
    return found | scaling, table


def heard(m: Mapping[str, Any], tensors: Mapping[str, Tensor], architecture: str) -> dict[str, Any]:
    """The keyword arguments of a Config that metadata spell out.

    tensors  the file's, read when they are asked for
    Raises KeyError for a key that is missing, UsageError for positions that are scaled in a way that is not known here.
    """
    key = f"{architecture}."
    heads, width = m[f"{key}attention.head_count"], m[f"{key}embedding_length"]
    head_dim = m.get(f"{key}attention.key_length", width // heads)
    base = float(m.get(f"{key}rope.freq_base", 10000.0))
    return {
        "vocab_size": len(m["tokenizer.ggml.tokens"]),
        "hidden_size": width,
        "intermediate_size": m[f"{key}feed_forward_length"],
        "num_hidden_layers": m[f"{key}block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": m.get(f"{key}attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": m[f"{key}context_length"],
        "rms_norm_eps": float(m[f"{key}attention.layer_norm_rms_epsilon"]),
        "rope_parameters": {"rope_type": "default", "rope_theta": base}
        | _heard_scaling(m, tensors, f"{key}rope.scaling.", head_dim, base),
        "tie_word_embeddings": "output.weight" not in tensors,
    }


def _base(c: LlamaLike) -> float:
    return float((c.rope_parameters or {}).get("rope_theta", 10000.0))


def _said_scaling(c: LlamaLike, architecture: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    rope = dict(c.rope_parameters or {})
    kind, key = rope.get("rope_type", "default"), f"{architecture}.rope.scaling."
    if kind == "linear":
        return {f"{key}type": "linear", f"{key}factor": float(rope["factor"])}, {}
    if kind == "yarn":
        factor, given = float(rope["factor"]), rope.get("attention_factor")
        odd = [name for name, usual in YARN.items() if rope.get(name) not in usual]
        odd += [] if given is None or abs(given - yarn_temperature(factor)) < 1e-6 else ["attention_factor"]
        if odd:
            raise UsageError(f"a .gguf cannot say the {odd[0]} = {rope[odd[0]]} of yarn: save the model as a folder")
        original = int(rope.get("original_max_position_embeddings") or c.max_position_embeddings)
        return {f"{key}type": "yarn", f"{key}factor": factor, f"{key}original_context_length": original}, {}
    if kind == "llama3":
        table = _table(c.width_of_head, _base(c), rope)
        again = _published(table, c.width_of_head, _base(c))
        if again is None:
            raise UsageError(f"a .gguf says {PUBLISHED} of llama3's scaling, not {rope}: save the model as a folder")
        return {}, {TABLE: table}
    return {}, {}


def _heard_scaling(
    m: Mapping[str, Any], tensors: Mapping[str, Tensor], key: str, head_dim: int, base: float
) -> dict[str, Any]:
    kind = m.get(f"{key}type", "none")
    found: dict[str, Any] | None = None
    if TABLE in tensors:
        found = _published(tensors[TABLE].float(), head_dim, base) if kind == "none" else None
    elif kind == "none":
        found = {}
    elif kind == "linear":
        found = {"rope_type": "linear", "factor": float(m[f"{key}factor"])}
    elif kind == "yarn" and not any(name.startswith((f"{key}yarn_", f"{key}attn_")) for name in m):
        found = {"rope_type": "yarn", "factor": float(m[f"{key}factor"])}
        if f"{key}original_context_length" in m:
            found["original_max_position_embeddings"] = m[f"{key}original_context_length"]
    if found is None:
        raise UsageError(f"this .gguf scales its rotary positions ({kind}, or a table); load the Hugging Face folder")
    return found


def _table(head_dim: int, base: float, rope: Mapping[str, Any]) -> Tensor:
    """[head_dim / 2]: what llama3's scaling divides each frequency by."""
    freqs = frequencies(head_dim, base)
    scaled = scaled_llama3(
        freqs,
        factor=float(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original=int(rope["original_max_position_embeddings"]),
    )
    return torch.tensor(freqs, device="cpu") / torch.tensor(scaled, device="cpu")


def _published(table: Tensor, head_dim: int, base: float) -> dict[str, Any] | None:
    """The parameters that give this table: those that every Llama 3 was published with, or None.

    The file has the table alone, and several parameters may give one table.
    """
    found = {"rope_type": "llama3", "factor": float(table.max()), **PUBLISHED}
    again = _table(head_dim, base, found)
    close = again.shape == table.shape and torch.allclose(again, table, rtol=1e-4, atol=0)
    return found if close else None
