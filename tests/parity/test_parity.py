"""Promise 1, the same numbers: every family against its reference, on odd sizes, along every path of a call.

One test, families x configs x arms. The arms:

    plain       one row a call
    batched     ragged rows in one call
    chunks-n    cached, n tokens of every row a call, rows in odd slots that join and leave
    chunks-all  the same with whole rows, some of which join later
    shared      what the rows have in common is computed once (decoders)
    saved       written by us, read by us
    exported    written by us, read by the reference
    float64     where float32's own noise is of the tolerance's order
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers.models.switch_transformers.modeling_switch_transformers import (
    SwitchTransformersLayerNorm,
    SwitchTransformersTop1Router,
)
from transformers.models.t5.modeling_t5 import T5LayerNorm

from groundup.checkpoints.load import Loaded, assemble, load
from groundup.checkpoints.safetensors import open_safetensors
from groundup.checkpoints.save import write
from groundup.core.rules import Rules, rules
from groundup.nn.cache import Fresh, Shared, Slots
from groundup.nn.step import Step
from parity.oracles import CASES, Case, InMemory, Rows, draw_rows, expected, step_of, write_reference

# 1e-5 x max(1, max |logit|) in float32: two orders of summation differ by a few roundings of 6e-8 in each of some ten
# layers. The same reasoning at 1.1e-16 gives the tolerance in float64.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}

ARMS = ("plain", "batched", "chunks-1", "chunks-3", "chunks-all", "shared", "saved", "exported")
LENGTHS, SOURCES = (5, 11, 1, 7), (3, 9, 13, 1)
SLOTS = (3, 0, 5, 2)


def arms(case: Case) -> Iterator[str]:
    for arm in ARMS:
        if case.causal or (arm != "shared" and (case.two_halves or arm not in ("chunks-1", "chunks-3"))):
            yield arm
    if case.two_halves:
        yield "float64"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost such small products more than they give."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """case -> (oracle, folder of its files, ours loaded from there), each made once."""
    kept: dict[str, tuple[nn.Module, Path, Loaded]] = {}

    def make(case: Case) -> tuple[nn.Module, Path, Loaded]:
        if case.name not in kept:
            folder = tmp_path_factory.mktemp(case.name)
            oracle = write_reference(case, folder)
            kept[case.name] = (oracle, folder, load(folder))
        return kept[case.name]

    return make


@pytest.mark.parametrize(("case", "arm"), [pytest.param(c, a, id=f"{c.name}-{a}") for c in CASES for a in arms(c)])
def test_same_numbers(case: Case, arm: str, made: Any, tmp_path: Path) -> None:
    oracle, _, ours = made(case)
    network, rows = ours.network, draw_rows(case, LENGTHS, SOURCES)
    dtype, oracle_says = torch.float32, None
    if arm == "float64":
        dtype, oracle, network = torch.float64, exact(oracle), copy.deepcopy(network).double()
    if arm in ("saved", "exported"):
        (tmp_path / "ours").mkdir()
        write(tmp_path / "ours", network, ours.family, ours.config)
    if arm == "exported":
        got = expected(case, read_by_reference(case, tmp_path / "ours"), rows)
    elif arm == "saved":
        got = batched(case, load(tmp_path / "ours").network, rows)
    elif arm == "shared":
        begin = draw_rows(case, (6,), (1,), seed=2).ids[0]
        got = shared(network, begin, rows)
        whole = Rows(tuple(torch.cat((begin, i)) for i in rows.ids), rows.types, rows.sources)
        oracle_says = [e[len(begin) :] for e in expected(case, oracle, whole)]
    elif arm == "plain":
        got = [
            batched(case, network, Rows((ids,), (types,), (source,)))[0]
            for ids, types, source in zip(rows.ids, rows.types, rows.sources, strict=True)
        ]
    elif arm in ("batched", "float64"):
        got = batched(case, network, rows)
    else:
        size = arm.removeprefix("chunks-")
        got = cached(case, network, rows, max(LENGTHS) if size == "all" else int(size))
    assert difference(got, oracle_says or expected(case, oracle, rows)) <= TOLERANCE[dtype]


def difference(got: list[Tensor], want: list[Tensor]) -> float:
    """The largest difference of two logits, as a share of max(1, the largest logit)."""
    largest = max(w.abs().max().item() for w in want)
    assert largest > 0.5, "logits near zero would agree with anything"
    return max((g - w).abs().max().item() for g, w in zip(got, want, strict=True)) / max(1.0, largest)


@torch.no_grad()
def batched(case: Case, network: Any, rows: Rows) -> list[Tensor]:
    step = step_of(case, network, rows, Fresh(), range(len(rows.ids)))
    return list(network(torch.cat(rows.ids), step).split(rows.lengths))


@torch.no_grad()
def shared(network: Any, begin: Tensor, rows: Rows) -> list[Tensor]:
    lengths = [len(begin), *rows.lengths]
    return list(network(torch.cat((begin, *rows.ids)), Step.of(lengths, Shared())).split(lengths)[1:])


@torch.no_grad()
def cached(case: Case, network: Any, rows: Rows, size: int) -> list[Tensor]:
    """`size` tokens of every row a call; two rows join a call later than the others, and each leaves at its end."""
    cache, done = Slots(rows=7, capacity=13), [0] * len(rows.ids)
    out: list[list[Tensor]] = [[] for _ in rows.ids]
    waves = [[0, 1], [2, 3]]
    while waves or any(d < n for d, n in zip(done, rows.lengths, strict=True)):
        going = [i for i, d in enumerate(done) if 0 < d < len(rows.ids[i])]
        joining = waves.pop(0) if waves else []
        for which in filter(None, (going, joining)):  # those that join do so in a call of their own: it has the memory
            take = [min(size, len(rows.ids[i]) - done[i]) for i in which]
            parts = [rows.ids[i][done[i] : done[i] + n] for i, n in zip(which, take, strict=True)]
            cut = Rows(
                tuple(parts),
                tuple(rows.types[i][:n] for i, n in zip(which, take, strict=True)),
                tuple(rows.sources[i] for i in which),
            )
            slots = [SLOTS[i] for i in which]
            if which is joining:
                step = step_of(case, network, cut, cache, range(len(which)), slots=slots)
            else:
                step = Step.of(take, cache, slots=slots)
            logits = network(torch.cat(parts), step)
            cache.advance(step)
            for i, n, part in zip(which, take, logits.split(take), strict=True):
                out[i].append(part)
                done[i] += n
                if done[i] == len(rows.ids[i]):
                    cache.free(SLOTS[i])
    return [torch.cat(o) for o in out]


def exact(oracle: nn.Module) -> nn.Module:
    """The reference in float64, its norms' means too (it takes them in float32 whatever the input)."""
    oracle = copy.deepcopy(oracle).double()
    for part in oracle.modules():
        if isinstance(part, T5LayerNorm | SwitchTransformersLayerNorm):
            part.forward = partial(root_mean_square, part)
        if isinstance(part, SwitchTransformersTop1Router):
            part.dtype = torch.float64
    return oracle


def root_mean_square(norm: T5LayerNorm, x: Tensor) -> Tensor:
    return norm.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)


def read_by_reference(case: Case, folder: Path) -> nn.Module:
    """The reference on our files; it must find all that it looks for, and nothing else."""
    model, report = getattr(transformers, case.reference).from_pretrained(folder, output_loading_info=True)
    # an untied BERT head has a second bias in memory that nothing reads
    assert set(report["missing_keys"]) <= {"cls.predictions.bias", "lm_head.bias"}
    assert not report["unexpected_keys"] and not report["mismatched_keys"]
    if case.family == "mixtral":
        model.set_experts_implementation("eager")
    return model.eval()


# ------------------------------------------------------------------------------------------------ negative controls


def without(table: Rules, operation: str, instead: str = "") -> Rules:
    """The same table with one operation forgotten."""
    changed = []
    for rule in table.table:
        kept = []
        for o in rule.operations:
            if o.name != operation:
                kept.append(o)
            elif instead:
                kept.append(replace(o, name=instead, numbers=()))
        changed.append(replace(rule, operations=tuple(kept)))
    assert changed != list(table.table)
    return replace(table, table=tuple(changed))


@pytest.mark.parametrize("name", ["bloom-6-heads", "bloom-11-heads-untied", "neox-parallel", "neox-tied"])
def test_without_the_interleave_the_numbers_differ(name: str, made: Any) -> None:
    case = next(c for c in CASES if c.name == name)
    oracle, folder, ours = made(case)
    table = without(ours.family.hugging_face(ours.config), "interleave", "split")
    wrong, _ = assemble(ours.family, ours.config, table, open_safetensors(folder), None, case.name)
    rows = draw_rows(case, LENGTHS, SOURCES)
    assert difference(batched(case, wrong, rows), expected(case, oracle, rows)) > 0.01


@pytest.mark.parametrize("name", ["mistral-window", "qwen2-upper-window", "gemma2-plain"])
def test_without_the_window_the_numbers_differ(name: str, made: Any) -> None:
    case = next(c for c in CASES if c.name == name)
    oracle, _, ours = made(case)
    network, rows = copy.deepcopy(ours.network), draw_rows(case, LENGTHS, SOURCES)
    for block in network.blocks:
        block.attn.window = None
    apart = [
        difference([g], [w]) for g, w in zip(batched(case, network, rows), expected(case, oracle, rows), strict=True)
    ]
    assert apart[1] > 0.01 and apart[2] <= TOLERANCE[torch.float32]  # a row of one token has nothing to leave out


@pytest.mark.parametrize("name", [c.name for c in CASES if c.family == "roberta"])
def test_with_places_that_begin_at_the_tables_first_row_the_numbers_differ(name: str, made: Any) -> None:
    case = next(c for c in CASES if c.name == name)
    oracle, _, ours = made(case)
    network, rows = copy.deepcopy(ours.network), draw_rows(case, LENGTHS, SOURCES)
    assert network.embed.first_position == case.config["pad_token_id"] + 1
    network.embed.first_position = 0
    assert difference(batched(case, network, rows), expected(case, oracle, rows)) > 0.01


@pytest.mark.parametrize("name", ["t5-gated-untied", "bert-untied", "bloom-11-heads-untied", "bloom-6-heads"])
def test_the_config_in_memory_says_whether_the_head_is_tied(name: str, made: Any) -> None:
    case = next(c for c in CASES if c.name == name)
    _, folder, ours = made(case)
    network = ours.network
    head = network.head.out if hasattr(network.head, "out") else network.head
    embed = network.embed.tokens if hasattr(network, "embed") else network.encoder.embed.tokens
    assert ours.config.tie_word_embeddings == (head.weight is embed.weight)
    assert ours.config.tie_word_embeddings == (not name.endswith("untied"))
    written = json.loads((folder / "config.json").read_text()).get("tie_word_embeddings", True)
    assert written == (not name.endswith("untied") or case.untied)  # what the file itself claims


GGUF_NAMES = """
    model.embed_tokens.weight                        token_embd.weight
    model.layers.{i}.input_layernorm.weight          blk.{i}.attn_norm.weight
    model.layers.{i}.self_attn.q_proj.weight         blk.{i}.attn_q.weight
    model.layers.{i}.self_attn.k_proj.weight         blk.{i}.attn_k.weight
    model.layers.{i}.self_attn.v_proj.weight         blk.{i}.attn_v.weight
    model.layers.{i}.self_attn.o_proj.weight         blk.{i}.attn_output.weight
    model.layers.{i}.post_attention_layernorm.weight blk.{i}.ffn_norm.weight
    model.layers.{i}.mlp.gate_proj.weight            blk.{i}.ffn_gate.weight
    model.layers.{i}.mlp.up_proj.weight              blk.{i}.ffn_up.weight
    model.layers.{i}.mlp.down_proj.weight            blk.{i}.ffn_down.weight
    model.norm.weight                                output_norm.weight
    lm_head.weight                                   output.weight
"""


def as_gguf(tensors: dict[str, Tensor], heads: int, kv_heads: int) -> dict[str, Tensor]:
    """What llama.cpp's converter makes of a Llama file: other names, and q and k with neighbouring pairs."""
    table = rules(*(" -> ".join(line.split()) for line in GGUF_NAMES.strip().splitlines()))
    out = {}
    for entry in table.load(tensors).entries:
        (name,), (source,) = entry.targets, entry.sources
        t = tensors[source]
        for part, n in (("attn_q", heads), ("attn_k", kv_heads)):
            if part in name:  # LlamaModel.permute in convert_hf_to_gguf.py
                t = t.reshape(n, 2, t.shape[0] // n // 2, *t.shape[1:]).swapaxes(1, 2).reshape(t.shape)
        out[name] = t
    return out


@pytest.mark.parametrize("forget", [False, True])
def test_gguf_rows_are_turned_back(forget: bool, made: Any) -> None:
    case = next(c for c in CASES if c.name == "llama-grouped")
    oracle, _, ours = made(case)
    names = {n: p.detach() for n, p in oracle.named_parameters()}
    tensors = as_gguf(names, ours.config.num_attention_heads, ours.config.kv_heads)
    table = case.module.gguf(ours.config)
    table = without(table, "rotary") if forget else table
    network, _ = assemble(ours.family, ours.config, table, InMemory(tensors), None, case.name)
    rows = draw_rows(case, LENGTHS, SOURCES)
    apart = difference(batched(case, network, rows), expected(case, oracle, rows))
    assert apart > 0.01 if forget else apart <= TOLERANCE[torch.float32]
