"""Tiny random models of the reference library, and the way from their files to our networks and back.

Weights are drawn anew so that biases, gains and attention are far from trivial; sizes are distinct and odd where the
mathematics allows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from groundup import models
from groundup.core.rules import Rules
from groundup.nn.cache import Fresh
from groundup.nn.stack import Encoder, EncoderDecoder
from groundup.nn.step import Memory, Step
from groundup.nn.storage import Dense

VOCABULARY = 97


@dataclass(frozen=True)
class Case:
    """One odd config of one family. `untied`: the head gets numbers of its own though the config says tied."""

    name: str
    family: str
    reference: str
    config: dict[str, Any]
    untied: bool = False

    @property
    def module(self) -> ModuleType:
        return getattr(models, self.family)

    @property
    def causal(self) -> bool:
        return self.family in ("gpt2", "llama", "bloom")

    @property
    def two_halves(self) -> bool:
        return self.family == "t5"


GPT2 = {"vocab_size": VOCABULARY, "n_positions": 64}
BERT = {"vocab_size": VOCABULARY, "max_position_embeddings": 61, "type_vocab_size": 3}
BLOOM = {"vocab_size": VOCABULARY}
LLAMA = {"vocab_size": VOCABULARY, "max_position_embeddings": 64}
T5 = {"vocab_size": VOCABULARY, "relative_attention_num_buckets": 10, "relative_attention_max_distance": 13}

# fmt: off
CASES = [
    Case("gpt2-plain", "gpt2", "GPT2LMHeadModel", GPT2 | {"n_embd": 35, "n_layer": 3, "n_head": 5}),
    Case("gpt2-inner", "gpt2", "GPT2LMHeadModel", GPT2 | {"n_embd": 33, "n_layer": 2, "n_head": 3, "n_inner": 47, "activation_function": "relu", "layer_norm_epsilon": 3e-3}),
    Case("gpt2-scales", "gpt2", "GPT2LMHeadModel", GPT2 | {"n_embd": 21, "n_layer": 3, "n_head": 7, "scale_attn_by_inverse_layer_idx": True, "tie_word_embeddings": False}),
    Case("gpt2-unscaled", "gpt2", "GPT2LMHeadModel", GPT2 | {"n_embd": 15, "n_layer": 1, "n_head": 1, "scale_attn_weights": False}),
    Case("bert-plain", "bert", "BertForMaskedLM", BERT | {"hidden_size": 35, "num_hidden_layers": 3, "num_attention_heads": 5, "intermediate_size": 41}),
    Case("bert-relu", "bert", "BertForMaskedLM", BERT | {"hidden_size": 33, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 27, "hidden_act": "relu", "layer_norm_eps": 2e-3}),
    Case("bert-untied", "bert", "BertForMaskedLM", BERT | {"hidden_size": 21, "num_hidden_layers": 1, "num_attention_heads": 7, "intermediate_size": 50, "type_vocab_size": 2, "tie_word_embeddings": False}),
    Case("bloom-6-heads", "bloom", "BloomForCausalLM", BLOOM | {"hidden_size": 30, "n_layer": 3, "n_head": 6}),
    Case("bloom-normed", "bloom", "BloomForCausalLM", BLOOM | {"hidden_size": 35, "n_layer": 2, "n_head": 5, "apply_residual_connection_post_layernorm": True, "layer_norm_epsilon": 2e-3}),
    Case("bloom-11-heads", "bloom", "BloomForCausalLM", BLOOM | {"hidden_size": 33, "n_layer": 2, "n_head": 11, "tie_word_embeddings": False}),
    Case("bloom-4-heads", "bloom", "BloomForCausalLM", BLOOM | {"hidden_size": 28, "n_layer": 2, "n_head": 4}),
    Case("llama-grouped", "llama", "LlamaForCausalLM", LLAMA | {"hidden_size": 45, "intermediate_size": 37, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 10}),
    Case("llama-one-key", "llama", "LlamaForCausalLM", LLAMA | {"hidden_size": 30, "intermediate_size": 47, "num_hidden_layers": 2, "num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 6, "attention_bias": True, "mlp_bias": True, "rms_norm_eps": 2e-3, "tie_word_embeddings": True}),
    Case("llama-llama3", "llama", "LlamaForCausalLM", LLAMA | {"hidden_size": 42, "intermediate_size": 29, "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 3, "rope_parameters": {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}}),
    Case("llama-yarn", "llama", "LlamaForCausalLM", LLAMA | {"hidden_size": 36, "intermediate_size": 31, "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 1, "rope_parameters": {"rope_type": "yarn", "rope_theta": 700.0, "factor": 4.0, "original_max_position_embeddings": 16}}),
    Case("llama-linear", "llama", "LlamaForCausalLM", LLAMA | {"hidden_size": 20, "intermediate_size": 31, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "hidden_act": "gelu", "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0}}),
    Case("t5-first", "t5", "T5ForConditionalGeneration", T5 | {"d_model": 35, "d_kv": 6, "d_ff": 41, "num_layers": 3, "num_heads": 5}),
    Case("t5-gated", "t5", "T5ForConditionalGeneration", T5 | {"d_model": 33, "d_kv": 7, "d_ff": 29, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 3, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, untied=True),
    Case("t5-silu", "t5", "T5ForConditionalGeneration", T5 | {"d_model": 21, "d_kv": 9, "d_ff": 51, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 7, "feed_forward_proj": "gated-silu", "layer_norm_epsilon": 2e-3, "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128}),
]
# fmt: on


def redraw(model: nn.Module, seed: int = 0) -> None:
    """Every number anew: matrices and biases with deviation 0.3, gains around 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        drawn = torch.randn(parameter.shape, generator=generator) * 0.3
        gain = parameter.ndim == 1 and name.endswith("weight")
        parameter.data = (drawn + 1 if gain else drawn).to(parameter.dtype)


def write_reference(case: Case, folder: Path) -> nn.Module:
    """The oracle, and its files as it writes them."""
    config = transformers.AutoConfig.for_model(case.family, **case.config)
    model = getattr(transformers, case.reference)(config).eval()
    if case.untied:
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.clone())
    redraw(model)
    model.save_pretrained(folder)
    return model


@dataclass
class Loaded:
    """A network of ours, its config and table."""

    network: Any
    config: Any
    rules: Rules
    public: dict[str, Any] = field(default_factory=dict)


def fill(network: nn.Module, tensors: dict[str, Tensor], rules: Rules, optional: Sequence[str] = ()) -> None:
    """Put the numbers of a file into a network. Nothing may be left over, on either side.

    Optional parts that the file lacks are taken off; a head that the config calls tied and that differs from the
    embedding gets a storage of its own.
    """
    plan = rules.load(tensors)
    assert not plan.unused
    drop_absent(network, plan.filled, optional)
    ties = {r.target: r.tied_to for r in rules.table if r.tied_to}
    made: dict[str, Tensor] = {}
    for entry in plan.entries:
        made.update(zip(entry.targets, entry.forward([tensors[s] for s in entry.sources]), strict=True))
    for name, value in made.items():
        path, _, last = name.rpartition(".")
        holder = network.get_submodule(path)
        kept = getattr(holder, last)
        assert tuple(kept.shape) == tuple(value.shape), name
        if not isinstance(kept, Dense):
            kept.data = value.clone()
        elif name not in ties:
            kept.values.data = value.clone()
        elif not torch.equal(value, made[ties[name]]):
            holder.weight = Dense(value.clone())
    assert unfilled(network, plan.filled) == []


def drop_absent(network: nn.Module, filled: set[str], optional: Sequence[str]) -> None:
    """Take off the optional parts of which a file holds nothing."""
    for part in optional:
        if not any(name.startswith(f"{part}.") for name in filled):
            setattr(network, part, None)


def unfilled(network: nn.Module, filled: set[str]) -> list[str]:
    """Parameters that no tensor of a file makes, by canonical name; a shared one needs to be made once."""
    names: dict[int, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name.removesuffix(".values"))
    return sorted(same[0] for same in names.values() if filled.isdisjoint(same))


def load(module: ModuleType, folder: Path, rules: Callable[[Any], Rules] | None = None) -> Loaded:
    """Our network from a folder in the Hugging Face layout."""
    public = json.loads((folder / "config.json").read_text())
    config = module.Config.from_public(public)
    network = module.build(config)
    table = (rules or module.hugging_face)(config)
    fill(network, load_file(folder / "model.safetensors"), table, getattr(module, "OPTIONAL", ()))
    return Loaded(network.eval(), config, table, public)


def save(loaded: Loaded, folder: Path) -> None:
    """The way back: our network as files that the reference reads."""
    own = {n.removesuffix(".values"): p for n, p in loaded.network.named_parameters()}
    plan = loaded.rules.save(own)
    assert not plan.unused
    tensors = {}
    for entry in plan.entries:
        tensors.update(zip(entry.sources, entry.inverse([own[t] for t in entry.targets]), strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    save_file({n: t.contiguous().clone() for n, t in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(loaded.config.to_public()))


@dataclass(frozen=True)
class Rows:
    """What all arms are asked: rows of ids, for BERT their types, for T5 what the encoder reads."""

    ids: tuple[Tensor, ...]
    types: tuple[Tensor, ...]
    sources: tuple[Tensor, ...]

    @property
    def lengths(self) -> list[int]:
        return [len(i) for i in self.ids]


def draw_rows(case: Case, lengths: Sequence[int], sources: Sequence[int], seed: int = 1) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    kinds = case.config.get("type_vocab_size", 1)
    return Rows(
        tuple(torch.randint(VOCABULARY, (n,), generator=generator) for n in lengths),
        tuple(torch.randint(kinds, (n,), generator=generator) for n in lengths),
        tuple(torch.randint(VOCABULARY, (n,), generator=generator) for n in sources),
    )


@torch.no_grad()
def expected(case: Case, model: nn.Module, rows: Rows) -> list[Tensor]:
    """The oracle's logits [L, V], row by row."""
    out = []
    for ids, types, source in zip(rows.ids, rows.types, rows.sources, strict=True):
        if case.two_halves:
            out.append(model(input_ids=source[None], decoder_input_ids=ids[None]).logits[0])
        elif case.family == "bert":
            out.append(model(input_ids=ids[None], token_type_ids=types[None]).logits[0])
        else:
            out.append(model(input_ids=ids[None]).logits[0])
    return out


def step_of(case: Case, network: Any, rows: Rows, cache: Any, which: Sequence[int], **how: Any) -> Step:
    """The `Step` of a call in which the rows `which` join whole; T5's encoder runs first, on ragged rows of its own."""
    lengths = [len(rows.ids[i]) for i in which]
    if isinstance(network, EncoderDecoder):
        how["memory"] = memory_of(network, [rows.sources[i] for i in which])
    if isinstance(network, Encoder):
        how["types"] = torch.cat([rows.types[i] for i in which])
    return Step.of(lengths, cache, **how)


def memory_of(network: EncoderDecoder, sources: Sequence[Tensor]) -> Memory:
    return network.encode(torch.cat(list(sources)), Step.of([len(s) for s in sources], Fresh()))
