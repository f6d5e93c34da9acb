"""A decoder's step as one native plan against the same step by PyTorch: every family, adapter and storage."""

from __future__ import annotations

import pytest
import torch
from families import ENCODERS, FAMILIES, TWO_HALVES, stirred

import groundup as gu
from groundup.inference.lowered import Lowered
from groundup.kernels.library import paths
from groundup.kernels.plan import Plan, lay
from groundup.nn.cache import Slots
from groundup.nn.surgery import in_format
from groundup.peft.front import lay as lay_rows
from groundup.peft.ia3 import IA3
from groundup.peft.llama_adapter import LlamaAdapter
from groundup.quantization.kinds import parse
from groundup.quantization.packed import packed
from groundup.quantization.shrink import store

DECODERS = [family for family in FAMILIES if family not in ENCODERS | TWO_HALVES]
PROMPTS = [[5, 6, 7, 8, 9, 10], [11], [12, 13, 14]]

pytestmark = pytest.mark.skipif(not any(here for _, here in paths()), reason="the compiled library is not here")


@torch.inference_mode()
def steps(network, adapters=None, *, native, prompts=PROMPTS, count=4):
    """The scores of some steps behind prompts, and the cache that they leave."""
    cache = Slots(len(prompts), 24)
    lowered = Lowered.of(network) if native else None
    assert lowered is not None or not native, "PyTorch would have run it"
    rows, found = prompts, []
    for _ in range(count + 1):
        ids, step, _ = lay_rows(network, rows, cache, adapters=adapters)
        if rows is not prompts and native:
            assert lowered.takes(step)
            found.append(lowered(ids, step))
        else:
            last = torch.tensor([end - 1 for end in step.rows.starts[1:]])
            found.append(network(ids, step, last).float())
        cache.advance(step)
        rows = [[3 + 7 * len(found) + i] for i in range(len(prompts))]
    return torch.stack(found), cache


def same(network, adapters=None, *, off=2e-5, **how):
    native, kept = steps(network, adapters, native=True, **how)
    torch_, kept_ = steps(network, adapters, native=False, **how)
    assert (native - torch_).abs().max() <= off * torch_.abs().max()
    for path, pair in kept_.kept.items():
        for mine, theirs in zip(kept.kept[path], pair, strict=True):
            assert (mine.float() - theirs.float()).abs().max() <= 10 * off * theirs.abs().max().float().clamp(min=1)
    return native


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("family", DECODERS)
def test_a_step_is_the_same(folders, family, threads):
    network = gu.load(folders(family)).network
    holes = Lowered.of(network).holes
    assert len(holes) == (2 if family == "mixtral" else 0) and all(hole.startswith("Experts") for hole in holes)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        same(network)
        same(network, prompts=[[5, 6, 7]])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_in_bfloat16(folders, family):
    """Closer to float32 than PyTorch's own step, which rounds between its operations."""
    exact = gu.load(folders(family)).network
    rough = in_format(exact, torch.bfloat16)
    truth, _ = steps(exact, native=False)
    native, kept = steps(rough, native=True)
    plain, _ = steps(rough, native=False)
    assert {t.dtype for pair in kept.kept.values() for t in pair} == {torch.bfloat16}
    assert (native - truth).abs().mean() <= 1.1 * (plain - truth).abs().mean()


@pytest.mark.parametrize("family", ["llama", "bloom", "gpt2", "gemma2"])
def test_adapters_of_different_rows(folders, family):
    model = gu.load(folders(family))
    model = stirred(gu.adapt(model, gu.LoRA(rank=3, targets="all"), name="low"), "low", seed=1)
    model = stirred(gu.adapt(model, IA3(), name="three"), "three", seed=2)
    network = model.network
    mixed = same(network, ("low", None, "three"))
    plain = same(network, None)
    for row, name in enumerate(("low", None, "three")):
        assert (mixed[:, row] - plain[:, row]).abs().max() > 0.01 or name is None, name
    assert torch.equal(mixed[:, 1], plain[:, 1])
    for name in ("low", "three"):
        same(network, name)


def test_a_stack_of_adapters_and_keys_that_stand_apart_are_left_to_pytorch(folders):
    model = stirred(gu.adapt(gu.load(folders("llama")), gu.LoRA(rank=2), name="a"), "a")
    model = stirred(gu.adapt(model, LlamaAdapter(length=2, layers=1), name="b"), "b")
    lowered, cache = Lowered.of(model.network), Slots(1, 8)
    _, step, _ = lay_rows(model.network, [[5, 6]], cache, adapters="a")
    model.network(torch.tensor([5, 6]), step)
    cache.advance(step)
    assert lowered.takes(lay_rows(model.network, [[5]], cache, adapters="a")[1])
    assert not lowered.takes(lay_rows(model.network, [[5]], cache, adapters="a+b")[1])
    assert not lowered.takes(lay_rows(model.network, [[5]], cache, adapters="b")[1])
    assert not lowered.takes(lay_rows(model.network, [[5, 6]], cache, adapters="a")[1])  # two tokens


@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "q4_1", "int8"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "gemma2"])
def test_packed_weights(folders, family, kind):
    network, _ = store(gu.load(folders(family)).network, parse(kind))
    made, names = packed(network)
    assert len(names) >= 8
    same(made, off=1e-2)  # an activation on the edge between two codes falls to either side
    assert Lowered.of(network) is None  # codes that the library has no tiles of


@pytest.mark.parametrize("kind", ["dora", "bottleneck"])
def test_what_says_nothing_of_itself_leaves_a_hole(folders, kind):
    from groundup.peft.bottleneck import Bottleneck

    method = (
        gu.LoRA(rank=2, targets="mlp.down", dora=True) if kind == "dora" else Bottleneck(width=3, places="mlp.down")
    )
    model = stirred(gu.adapt(gu.load(folders("llama")), method, name="mine"), "mine")
    lowered = Lowered.of(model.network)
    assert len(lowered.holes) == 2 and "Adapted" in lowered.holes[0]
    same(model.network, "mine")
    same(model.network, ("mine", None, "mine"))


def test_a_later_forward_is_not_passed_over(folders):
    network = gu.load(folders("llama")).network

    class Doubled(type(network.blocks[0].mlp)):
        def forward(self, x, step):
            return 2 * super().forward(x, step)

    for block in network.blocks:
        block.mlp.__class__ = Doubled
    assert [hole.split(":")[0] for hole in Lowered.of(network).holes] == ["Doubled", "Doubled"]
    same(network)


def test_changes_of_every_setting_of_attention_are_seen(folders):
    """Each one changes the numbers, alike on both sides: none is silently left out."""
    base = steps(gu.load(folders("llama")).network, native=True)[0]
    for name, value in {"scale": 0.9, "window": 2, "cap": 0.7, "clip": 0.2}.items():
        network = gu.load(folders("llama")).network
        for block in network.blocks:
            setattr(block.attn, name, value)
        assert (same(network) - base).abs().max() > 1e-3, name


def test_threads_wait_where_one_reads_what_others_wrote_and_nowhere_else():
    plan = Plan()
    x = plan.register(32)
    weight = torch.randn(32, 32)
    normed = plan.rms_norm(x, torch.ones(32), 1e-5)
    up = plan.dense(normed, weight, None)
    both = plan.gate(up, plan.dense(normed, weight, None), "silu")
    out = plan.add(x, plan.dense(both, weight, None))
    laid = lay(plan, x, plan.rms_norm(out, torch.ones(32), 1e-5))
    (segment,) = laid.segments
    assert [op.barrier for op in segment.ops[: segment.count]] == [0, 0, 0, 0, 1, 0, 1]


def test_a_register_is_not_written_over_while_others_may_read_it():
    plan = Plan()
    x = plan.register(16)
    y = plan.activate(x, "relu")
    for _ in range(6):
        y = plan.add(plan.dense(y, torch.randn(16, 16), None), x)
    laid = lay(plan, x, y)
    touched: dict[int, set[str]] = {}
    for each, op in zip(plan.emitted, laid.segments[0].ops, strict=False):
        if op.barrier:
            touched.clear()
        at = {r.number: place for r, place in ((each.registers["input"], op.input), (each.registers["out"], op.out))}
        for access in each.accesses:
            place = at.get(access.register.number, op.other)
            if access.writes:
                assert "whole" not in touched.get(place, set())
            touched.setdefault(place, set()).add(access.how)
