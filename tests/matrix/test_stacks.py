"""Adapters used together on the same rows, and sums of adapters; the oracles are merged weights, joined rows and PEFT."""

from __future__ import annotations

import warnings

import peft
import pytest
import torch
from families import ENCODERS, FAMILIES, LENGTHS, close, logits, stirred
from test_laws import CASES, FOLDS
from test_lora import reference, their_logits

import groundup as gu
from groundup.core.errors import UsageError
from groundup.peft.bitfit import BitFit
from groundup.peft.ia3 import IA3
from groundup.peft.lora import LoRA
from groundup.peft.prefix import PrefixTuning
from groundup.peft.prompt import Prompt

LOW = {"lora": CASES["lora"], "dora": CASES["dora"], "ia3": CASES["ia3"]}
UPPER = ["lora", "ia3", "prompt", "prefix", "llama-adapter", "bottleneck"]


def both(base: gu.Model, lower, upper) -> gu.Model:
    """The base with two stirred adapters, the upper one over the lower."""
    model = stirred(gu.adapt(base, lower, name="low"), "low", 3)
    return stirred(gu.adapt(model, upper, name="up"), "up", 5).using("low+up")


PAIRS = [
    *(("llama", lower, upper) for lower in LOW for upper in UPPER),
    *((f, *pair) for f in sorted({*FAMILIES} - {"llama"}) for pair in (("dora", "prompt"), ("ia3", "lora"))),
]


@pytest.mark.parametrize(("family", "lower", "upper"), PAIRS)
def test_an_adapter_over_another_is_it_on_the_merged_model(folders, family, lower, upper):
    base = gu.load(folders(family))
    together = both(base, LOW[lower], CASES[upper])
    merged = gu.merge(together.using("low"))
    by_hand = stirred(gu.adapt(merged, CASES[upper], name="up"), "up", 5)
    close(logits(together), logits(by_hand), factor=3)
    for alone in ("low", "up"):  # neither hides the other
        assert (logits(together) - logits(together.using(alone))).abs().max() > 1e-3
    if family not in ENCODERS:
        close(logits(together, kept=True), logits(together), factor=2)
    if upper in FOLDS:
        close(logits(gu.merge(together)), logits(together), factor=3)


@pytest.mark.parametrize("family", ["bloom", "gpt2", "llama", "t5"])
def test_rows_with_stacks_stand_beside_rows_with_one_or_none(folders, family):
    model = gu.load(folders(family))
    for seed, (name, case) in enumerate(
        {"l": "lora", "i": "ia3", "p": "prompt", "x": "prefix", "a": "llama-adapter"}.items()
    ):
        model = stirred(gu.adapt(model, CASES[case], name=name), name, seed)
    for order in (["l+p", None, "p+l", "i"], ["l", "l+i", "i+l", "x+p"], ["a+l", "a", "p+x+a", "l+i+p"]):
        mixed = logits(model, order, kept=True).split(LENGTHS)
        for i, name in enumerate(order):
            close(mixed[i], logits(model, name, kept=True).split(LENGTHS)[i], factor=2)


def test_the_order_counts_where_the_mathematics_says_so(folders):
    model = both(gu.load(folders("llama")), LoRA(rank=3, targets="attn.v"), IA3())
    assert (logits(model) - logits(model.using("up+low"))).abs().max() > 1e-3  # l (W + BA) x is not l W x + BA x
    pair = both(gu.load(folders("llama")), LoRA(rank=3, targets="all"), LoRA(rank=2, targets="attn.v"))
    close(logits(pair), logits(pair.using("up+low")))


def test_fronts_stand_one_behind_the_other(folders):
    base = gu.load(folders("llama"))
    prompts = both(base, Prompt(length=2), Prompt(length=3))
    vectors = [prompts.network.adapters[n].vectors() for n in ("low", "up")]
    one = gu.adapt(base, Prompt(length=5))
    one.network.adapters["mine"].prompt.data = torch.cat(vectors).detach()
    close(logits(prompts), logits(one))
    prefixes = both(base, PrefixTuning(length=2), PrefixTuning(length=3))
    one = gu.adapt(base, PrefixTuning(length=5))
    one.network.adapters["mine"].start.data = torch.cat(
        [prompts_.start for prompts_ in prefixes.network.adapters.values()]
    ).detach()
    close(logits(prefixes), logits(one))
    assert prefixes.room == 64 - 5


def test_what_cannot_be_stacked_says_so(folders, tmp_path):
    base = gu.load(folders("llama"))
    with pytest.raises(UsageError, match="put up first"):
        both(base, CASES["lora"], CASES["dora"])
    pair = both(base, LoRA(), Prompt(length=2))
    with pytest.raises(UsageError, match="no adapter"):
        pair.using("low+other")
    with pytest.raises(UsageError, match="once"):
        pair.using("low+low")
    with pytest.raises(UsageError, match="before every row"):
        gu.merge(pair)
    with pytest.raises(UsageError, match="one alone"):
        gu.save(pair, tmp_path / "out")
    with pytest.raises(UsageError, match="one alone"):
        gu.finetune(pair, [{"text": "a"}], out=tmp_path / "run")
    with pytest.raises(UsageError, match="has an adapter"):
        gu.adapt(pair, IA3(), name="low")
    with pytest.raises(UsageError, match="letters"):
        gu.adapt(pair, IA3(), name="low+up")


def test_several_folders_load_as_a_stack(folders, tmp_path):
    pair = both(gu.load(folders("llama")), LoRA(), Prompt(length=2))
    for name in ("low", "up"):
        gu.save(pair.using(name), tmp_path / name)
    again = gu.load(folders("llama"), adapter=[tmp_path / "low", tmp_path / "up"])
    assert again.adapter == "mine+mine2"
    close(logits(again), logits(pair), factor=2)
    close(logits(gu.load(tmp_path / "low", adapter=tmp_path / "up")), logits(pair), factor=2)


# --- sums -----------------------------------------------------------------------------------------------------------


def pair_of(base: gu.Model, first, second) -> gu.Model:
    model = stirred(gu.adapt(base, first, name="a"), "a", 3)
    return stirred(gu.adapt(model, second, name="b"), "b", 5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "t5"])
def test_a_sum_of_lora_adapters_is_pefts(folders, family, tmp_path):
    model = pair_of(
        gu.load(folders(family)), LoRA(rank=2, alpha=5, targets="attn.q mlp.down"), LoRA(rank=3, targets="all")
    )
    if family in ("gpt2", "bloom"):  # a fused matrix in the file
        model = pair_of(
            gu.load(folders(family)), LoRA(rank=2, alpha=5, targets="mlp.down"), LoRA(rank=3, targets="mlp.down")
        )
    for name in "ab":
        gu.save(model.using(name), tmp_path / name)
    total = gu.combine(model, {"a": 0.7, "b": -0.4})
    theirs = peft.PeftModel.from_pretrained(reference(folders(family), family), tmp_path / "a", adapter_name="a").eval()
    theirs.load_adapter(tmp_path / "b", "b")
    theirs.add_weighted_adapter(["a", "b"], [0.7, -0.4], "both", combination_type="cat")
    theirs.set_adapter("both")
    close(logits(total), their_logits(theirs, family), factor=2)
    gu.save(total, tmp_path / "sum")
    back = peft.PeftModel.from_pretrained(reference(folders(family), family), tmp_path / "sum").eval()
    close(their_logits(back, family), logits(total), factor=2)
    assert (logits(total) - logits(gu.combine(model, {"a": 0.7, "b": 0.4}))).abs().max() > 1e-3


def test_a_sum_of_a_rank_is_pefts_by_singular_values(folders, tmp_path):
    model = pair_of(
        gu.load(folders("llama")), LoRA(rank=2, targets="attn.q mlp.down"), LoRA(rank=3, targets="attn.q mlp.down")
    )
    for name in "ab":
        gu.save(model.using(name), tmp_path / name)
    theirs = peft.PeftModel.from_pretrained(
        reference(folders("llama"), "llama"), tmp_path / "a", adapter_name="a"
    ).eval()
    theirs.load_adapter(tmp_path / "b", "b")
    theirs.add_weighted_adapter(["a", "b"], [0.7, 0.3], "both", combination_type="svd", svd_rank=2)
    theirs.set_adapter("both")
    total = gu.combine(model, {"a": 0.7, "b": 0.3}, rank=2)
    close(logits(total), their_logits(theirs, "llama"), factor=5)
    full = gu.combine(model, {"a": 0.7, "b": 0.3}, rank=5)
    close(logits(full), logits(gu.combine(model, {"a": 0.7, "b": 0.3})), factor=5)


def test_a_pair_read_with_one_a_for_several_linears_keeps_it_in_the_sum(folders, tmp_path):
    config = peft.LoraConfig(r=3, target_modules=["c_attn", "wte"], fan_in_fan_out=True, init_lora_weights=False)
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peft.get_peft_model(reference(folders("gpt2"), "gpt2"), config).save_pretrained(tmp_path / name)
    model = gu.load(folders("gpt2"), adapter=[tmp_path / "a", tmp_path / "b"])
    total = gu.combine(model, {"mine": 1.0, "mine2": 1.0})
    close(logits(total), logits(model.using("mine+mine2")), factor=2)
    gu.save(total, tmp_path / "sum")
    assert gu.load(tmp_path / "sum").method.rank == 6


def test_sums_of_factors_and_of_prompts(folders):
    base = gu.load(folders("llama"))
    scales = pair_of(base, IA3(), IA3(targets="attn.v", feedforward=""))
    total = gu.combine(scales, {"a": 2.0, "b": -1.0})
    part = total.network.blocks[1].attn.v.parts
    assert torch.allclose(part["combined"].factors, 2 * part["a"].factors - part["b"].factors)
    part = total.network.blocks[1].attn.k.parts
    assert torch.allclose(part["combined"].factors, 2 * part["a"].factors - 1)
    prompts = pair_of(base, Prompt(length=3), Prompt(length=3))
    total = gu.combine(prompts, {"a": 0.25, "b": 0.75}, name="mean").network.adapters
    assert torch.allclose(total["mean"].vectors(), 0.25 * total["a"].vectors() + 0.75 * total["b"].vectors())


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        (LoRA(), IA3(), "one kind"),
        (LoRA(), LoRA(dora=True), "DoRA"),
        (Prompt(length=2), Prompt(length=3), "one length"),
        (PrefixTuning(length=2), PrefixTuning(length=2), "no weighted sum"),
    ],
)
def test_what_has_no_sum_says_so(folders, first, second, says):
    with pytest.raises(UsageError, match=says):
        gu.combine(pair_of(gu.load(folders("llama")), first, second), {"a": 1, "b": 1})


@pytest.mark.parametrize(
    "weights", [{"a": 1.0}, {"a": 1.0, "c": 1.0}, {"a": float("nan"), "b": 1.0}, {"a": 0.0, "b": 0.0}]
)
def test_weights_that_make_no_sense(folders, weights):
    with pytest.raises(UsageError):
        gu.combine(pair_of(gu.load(folders("llama")), LoRA(), LoRA()), weights)


def test_bitfit_stacks_where_there_are_biases(folders):
    pair = both(gu.load(folders("gpt2")), BitFit(), LoRA(rank=2))
    close(logits(gu.merge(pair)), logits(pair), factor=2)
