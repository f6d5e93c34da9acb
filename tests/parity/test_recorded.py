"""What the public models' files really hold: names, shapes and configs, old spellings included (`recorded/*.json`).

Each says how it is `known`: all-minilm-l6-v2 was read from the file; of the others the names and shapes are those that the
reference writes, and what old files hold beside (`IGNORED`, `COPIES`, `BESIDE`) and their configs are from memory. `{i}`
stands for every layer. Nothing may be left over, on either side, and what we would write is what the reference looks for.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from torch import Tensor, nn

from groundup import models
from groundup.core.errors import UsageError
from groundup.core.rules import Entry

FOLDER = Path(__file__).parent / "recorded"
FILES = sorted(FOLDER.glob("*.json"))

# name of the file -> what a plan may say besides its entries
COPIES = {
    "bert-base-chinese": ["cls.predictions.decoder.bias"],
    "flan-t5-small": ["encoder.embed_tokens.weight"],
}
IGNORED = {
    "all-minilm-l6-v2": {"embeddings.position_ids"},
    "bert-base-chinese": {"cls.seq_relationship.weight", "cls.seq_relationship.bias"},
    "bert-base-uncased": {"cls.seq_relationship.weight", "cls.seq_relationship.bias"},
    "roberta-base": {"roberta.embeddings.position_ids"},
    "distilgpt2": {"transformer.h.{i}.attn.bias", "transformer.h.{i}.attn.masked_bias"},
    "gpt2": {"h.{i}.attn.bias"},
    "llama-7b": {"model.layers.{i}.self_attn.rotary_emb.inv_freq"},
    "openai-gpt": {"h.{i}.attn.bias"},
    "pythia-70m": {f"gpt_neox.layers.{{i}}.attention.{n}" for n in ("bias", "masked_bias", "rotary_emb.inv_freq")},
    "t5-small": {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"},
}
POOLER = {"pooler.dense.weight", "pooler.dense.bias"}
# what a file holds and we read, and the reference's class of that name does not write
BESIDE = {
    "bert-base-chinese": {"cls.predictions.decoder.weight", *(f"bert.{n}" for n in POOLER)},
    "bert-base-uncased": {f"bert.{n}" for n in POOLER},
    "distilgpt2": {"lm_head.weight"},
    "flan-t5-small": {"decoder.embed_tokens.weight", "encoder.embed_tokens.weight", "lm_head.weight"},
    "roberta-base": {f"roberta.{n}" for n in POOLER},
}
REFERENCE = {
    "bert": transformers.BertForMaskedLM,
    "distilbert": transformers.DistilBertForMaskedLM,
    "roberta": transformers.RobertaForMaskedLM,
    "bloom": transformers.BloomForCausalLM,
    "gpt2": transformers.GPT2LMHeadModel,
    "gpt_neox": transformers.GPTNeoXForCausalLM,
    "llama": transformers.LlamaForCausalLM,
    "mistral": transformers.MistralForCausalLM,
    "mpt": transformers.MptForCausalLM,
    "openai-gpt": transformers.OpenAIGPTLMHeadModel,
    "qwen2": transformers.Qwen2ForCausalLM,
    "t5": transformers.T5ForConditionalGeneration,
}


def read(file: Path) -> tuple[dict[str, Any], dict[str, Tensor], int]:
    """The config, the tensors (of no numbers), and how many layers there are."""
    recorded = json.loads(file.read_text())
    tensors = {}
    for name, shape in recorded["tensors"].items():
        for i in range(recorded["layers"] if "{i}" in name else 1):
            tensors[name.replace("{i}", str(i))] = torch.empty(shape, device="meta")
    return recorded["config"], tensors, recorded["layers"]


def parameters(network: nn.Module) -> dict[str, list[int]]:
    """Canonical name -> shape; what is tied is there under both names."""
    named = network.named_parameters(remove_duplicate=False)
    return {name.removesuffix(".values"): list(p.shape) for name, p in named}


def made(entry: Entry, tensors: dict[str, Tensor]) -> dict[str, list[int]]:
    out = entry.forward([tensors[s] for s in entry.sources])
    return {name: list(t.shape) for name, t in zip(entry.targets, out, strict=True)}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_nothing_is_left_over(file: Path) -> None:
    public, tensors, layers = read(file)
    family = getattr(models, public["model_type"])
    config = family.Config.from_public(public)
    assert family.Config.from_public(config.to_public()) == config
    with torch.device("meta"):
        wanted = parameters(family.build(config))
    plan = family.hugging_face(config).load(tensors)

    assert plan.unused == []
    ignored = {n.replace("{i}", str(i)) for n in IGNORED.get(file.stem, ()) for i in range(layers)}
    assert set(plan.ignored) == ignored
    assert [s for e in plan.copies for s in e.sources] == COPIES.get(file.stem, [])

    got: dict[str, list[int]] = {}
    for entry in plan.entries:
        got |= made(entry, tensors)
    for entry in plan.copies:
        assert made(entry, tensors).items() <= got.items()
    for target, source in plan.ties.items():
        got[target] = got[source]
    missing = [
        part for part in getattr(family, "OPTIONAL", ()) if not any(e.startswith(part + ".") for e in plan.filled)
    ]
    assert missing == (["head"] if file.stem == "all-minilm-l6-v2" else [])
    here = {n: s for n, s in wanted.items() if not n.startswith(tuple(f"{part}." for part in missing))}
    assert {n: s for n, s in got.items() if not n.startswith(tuple(f"{part}." for part in missing))} == here


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_what_we_write_is_what_the_reference_looks_for(file: Path) -> None:
    """The table's other direction against the reference's own modules, at the public model's size."""
    public, _, _ = read(file)
    family = getattr(models, public["model_type"])
    with torch.device("meta"):
        config = family.Config.from_public(public)
        network = family.build(config)
        reference = REFERENCE[config.model_type](transformers.AutoConfig.for_model(**public))
    own = {n.removesuffix(".values"): p for n, p in network.named_parameters()}
    written: dict[str, list[int]] = {}
    plan = family.hugging_face(config).save(own)
    for entry in plan.entries:
        out = entry.inverse([own[t] for t in entry.targets])
        written |= {n: list(t.shape) for n, t in zip(entry.sources, out, strict=True)}
    assert plan.unused == []
    tied = set(reference.all_tied_weights_keys) if config.tie_word_embeddings else set(ALWAYS_TIED)
    theirs = {n: list(p.shape) for n, p in reference.named_parameters(remove_duplicate=False) if n not in tied}
    if config.model_type == "gpt_neox":  # the one whose file says otherwise than the module
        theirs["embed_out.weight"] = theirs.pop("lm_head.weight")
    pooler = {n for n in written if ".pooler." in n}  # the masked-word reference is built without
    assert {n: s for n, s in written.items() if n not in pooler} == theirs


ALWAYS_TIED = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


SMALL = dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "intermediate_size", "d_ff", "hidden_dim"), 8)
SMALL |= dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 2)
SMALL |= {"num_key_value_heads": 1, "d_kv": 4, "head_dim": 4, "max_position_embeddings": 16, "n_positions": 16}
OWN = {"vocab_size": 9, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_the_recorded_names_are_those_that_the_reference_writes(file: Path, tmp_path: Path) -> None:
    """A small model of as many layers, saved by the reference; no name of these lists is a slip of memory."""
    public, tensors, layers = read(file)
    small = {key: SMALL.get(key, value) for key, value in public.items() if value is not None} | OWN
    reference = getattr(transformers, public["architectures"][0].replace("MPT", "Mpt"))
    reference(transformers.AutoConfig.for_model(**small)).save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as written:
        names = set(written.keys())
    more = IGNORED.get(file.stem, set()) | set(COPIES.get(file.stem, ())) | BESIDE.get(file.stem, set())
    more = {n.replace("{i}", str(i)) for n in more for i in range(layers)}
    recorded = {n.replace(".gamma", ".weight").replace(".beta", ".bias") for n in tensors if n not in more}
    bare = reference.base_model_prefix + "."  # which a file may leave out
    assert {n.removeprefix(bare) for n in recorded} == {n.removeprefix(bare) for n in names}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_a_renamed_tensor_is_found_out(file: Path) -> None:
    """The negative control: one name changed by one letter is left over, and what it made is missing."""
    public, tensors, _ = read(file)
    family = getattr(models, public["model_type"])
    table = family.hugging_face(family.Config.from_public(public))
    victim = next(n for n in tensors if ".1." in n and n.endswith("weight"))
    plan, whole = (
        table.load([n.replace("weight", "weighs") if n == victim else n for n in tensors]),
        table.load(tensors),
    )
    assert plan.unused == [victim.replace("weight", "weighs")]
    assert len(whole.filled - plan.filled) >= 1


SIZES = {"num_key_value_heads": 2, "num_hidden_layers": 24, "tie_word_embeddings": True}
PYTHIA = {"vocab_size": 50304, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6}
DECODER = {"encoder_layers": None, "tie_word_embeddings": False, "head_bias": True}
COUNTS: list[tuple[str, dict[str, Any], int]] = [
    ("mpt", {"vocab_size": 50432, "d_model": 4096, "n_heads": 32, "n_layers": 32}, 6_649_286_656),  # mpt-7b
    ("openai-gpt", {}, 116_534_784),
    ("gpt_neox", PYTHIA | {"num_attention_heads": 8}, 70_426_624),  # pythia-70m
    ("gpt_neox", {}, 20_554_567_680),  # gpt-neox-20b
    ("mistral", {}, 7_241_732_096),  # mistral-7b
    ("qwen2", SIZES | {"hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14}, 494_032_768),
    ("qwen3", {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
               "num_key_value_heads": 8, "tie_word_embeddings": True}, 596_049_920),  # qwen3-0.6b
    ("gemma", {"hidden_size": 2048, "intermediate_size": 16384, "num_hidden_layers": 18, "num_attention_heads": 8,
               "num_key_value_heads": 1}, 2_506_172_416),  # gemma-2b
    ("gemma2", {}, 2_614_341_888),  # gemma-2-2b
    ("distilbert", {}, 66_985_530),  # distilbert-base-uncased
    ("roberta", {"max_position_embeddings": 514, "type_vocab_size": 1}, 124_697_433 + 590_592),  # roberta-base, a pooler
    # closed forms: V d + layers (4 (d² + d) + 2 d f + f + d + 4 d) + (V d + V where there is a head of its own)
    ("transformer", DECODER | {"vocab_size": 1000, "num_heads": 1, "d_ff": 1024, "decoder_layers": 1}, 3_127_784),
    ("transformer", DECODER | {"vocab_size": 10000, "d_model": 2048, "d_ff": 8192, "decoder_layers": 10}, 544_552_720),
    ("transformer", {"vocab_size": 5000, "decoder_layers": None, "positions": 1000, "head": False}, 21_986_304),
]  # fmt: skip


@pytest.mark.parametrize(("family", "sizes", "count"), COUNTS)
def test_how_many_numbers_there_are(family: str, sizes: dict[str, Any], count: int) -> None:
    module = getattr(models, family)
    with torch.device("meta"):
        network = module.build(module.Config.from_public({"model_type": family} | sizes))
    assert sum(p.numel() for p in network.parameters()) == count


def test_settings_that_would_change_the_numbers_are_refused() -> None:
    for family, public, says in (
        ("mpt", {"attn_config": {"alibi": False}}, "attn_config.alibi"),
        ("mpt", {"attn_config": {"qk_ln": True}}, "attn_config.qk_ln"),
        ("mpt", {"no_bias": False}, "no_bias"),
        ("qwen2", {"num_hidden_layers": 3, "layer_types": ["full_attention"]}, "names 1 layers"),
        ("gemma2", {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 4}, "names 4 layers"),
        ("qwen3", {"layer_types": ["chunked_attention"]}, "layer_types.0"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gpt_neox", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic"),
        ("transformer", {"encoder_layers": None, "decoder_layers": None}, "nothing in it"),
    ):
        module = getattr(models, family)
        with torch.device("meta"), pytest.raises(UsageError, match=says):
            module.build(module.Config.from_public({"model_type": family} | public))


def test_scalings_that_are_not_here_are_refused() -> None:
    public, _, _ = read(FOLDER / "llama-3.1-8b-instruct.json")
    for rope in ({"rope_type": "dynamic", "factor": 2.0}, {"type": "linear", "factor": 2.0, "short_factor": [1.0]}):
        with pytest.raises(UsageError, match=r"dynamic|short_factor"):
            models.llama.build(models.llama.Config.from_public(public | {"rope_scaling": rope}))
