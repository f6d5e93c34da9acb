"""The matrix of laws: every family with every method of tuning. A method that has no place in a family says so."""

from __future__ import annotations

import pytest
import torch
from families import ENCODERS, FAMILIES, MATRIX, TWO_HALVES, call, close, logits, stirred

import groundup as gu
from groundup.core.errors import UsageError
from groundup.peft.bitfit import BitFit
from groundup.peft.bottleneck import Bottleneck
from groundup.peft.full import Freeze, Full
from groundup.peft.ia3 import IA3
from groundup.peft.llama_adapter import LlamaAdapter
from groundup.peft.lora import LoRA
from groundup.peft.methods import METHODS
from groundup.peft.mixture import PromptMixture
from groundup.peft.prefix import PrefixTuning
from groundup.peft.prompt import Prompt

CASES = {
    "lora": LoRA(rank=3, alpha=5, targets="all"),
    "dora": LoRA(rank=3, alpha=5, targets="all", dora=True),
    "ia3": IA3(),
    "prompt": Prompt(length=4),
    "prefix": PrefixTuning(length=3),
    "prefix by mlp": PrefixTuning(length=3, hidden=5),
    "llama-adapter": LlamaAdapter(length=3, layers=1),
    "bottleneck": Bottleneck(width=3),
    "bitfit": BitFit(),
    "freeze": Freeze(layers=1),
    "full": Full(),
}
CHANGES_AT_ONCE = {"prompt", "prefix", "prefix by mlp"}  # something stands before the row from the first step on
FOLDS = {"lora", "dora", "ia3", "bitfit"}
ADAPTERS = sorted(set(CASES) - {"freeze", "full"})


def tuned(folders, family: str, case: str, name: str = "mine"):
    """The model with this method on it, or a skip where the method has said why it has no place here."""
    base = gu.load(folders(family))
    if case == "bitfit" and family in (
        "gemma",
        "gemma2",
        "llama",
        "mistral",
        "mixtral",
        "mpt",
        "qwen3",
        "switch_transformers",
        "t5",
    ):
        with pytest.raises(UsageError, match="biases"):
            gu.adapt(base, CASES[case])
        pytest.skip("no biases in this family: refused")
    return base, gu.adapt(base, CASES[case], name=name)


def test_every_method_is_here():
    # a mixture is learned by a loss of its own: tests/training/test_mixture.py
    assert {type(m) for m in CASES.values()} == set(METHODS.values()) - {PromptMixture}


@pytest.mark.parametrize("family", MATRIX)
@pytest.mark.parametrize("case", ADAPTERS)
class TestAdapters:
    def test_identity_at_the_start_and_off_is_the_base_to_the_bit(self, folders, family, case):
        base, model = tuned(folders, family, case)
        if case not in CHANGES_AT_ONCE:
            close(logits(model), logits(base), factor=0.1)
        stirred(model)
        assert (logits(model) - logits(base)).abs().max() > 1e-3
        assert torch.equal(logits(model, None), logits(base))

    def test_the_base_shares_its_weights_and_never_sees_the_adapter(self, folders, family, case):
        base, model = tuned(folders, family, case)
        before = logits(base)
        stirred(model)
        assert torch.equal(logits(base, "mine"), before)
        ours = {p.data_ptr() for p in base.network.parameters()}
        assert ours <= {p.data_ptr() for p in model.network.parameters()}

    def test_merged_is_unmerged(self, folders, family, case):
        _, model = tuned(folders, family, case)
        stirred(model)
        if case not in FOLDS:
            with pytest.raises(UsageError, match="merge"):
                gu.merge(model)
            return
        merged = gu.merge(model)
        close(logits(merged), logits(model), factor=2)
        assert merged.adapter is None and "logits moved" in merged.notes[-1]

    def test_saved_and_loaded(self, folders, family, case, tmp_path):
        _, model = tuned(folders, family, case)
        stirred(model)
        gu.save(model, tmp_path / "adapter")
        again = gu.load(folders(family), adapter=tmp_path / "adapter")
        close(logits(again), logits(model), factor=2)
        assert "takes effect" in again.notes[-1]
        close(logits(gu.load(tmp_path / "adapter")), logits(model), factor=2)  # the folder names its base
        gu.save(again, tmp_path / "twice")
        close(logits(gu.load(tmp_path / "twice")), logits(model), factor=2)

    def test_only_its_own_parameters_move_and_every_one_does(self, folders, family, case):
        _, model = tuned(folders, family, case)
        stirred(model)
        own = model.methods["mine"].trained(model.network, "mine")
        for parameter in own.values():
            parameter.requires_grad_()
        call(model, "mine").square().sum().backward()
        moved = {n for n, p in model.network.named_parameters() if p.grad is not None}
        assert len(moved) == len(own)
        # the shift of a key's bias moves all scores of a query alike, and softmax does not see it
        unseen = {n for n in own if case == "bitfit" and n.endswith("attn.k.shift")}
        assert all(bool(p.grad is not None and p.grad.ne(0).any()) for n, p in own.items() if n not in unseen)

    def test_in_a_cache_it_is_the_same(self, folders, family, case):
        if family in ENCODERS:
            pytest.skip("an encoder has no cache of generation")
        _, model = tuned(folders, family, case)
        stirred(model)
        close(logits(model, kept=True), logits(model))


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - ENCODERS))
def test_rows_of_one_batch_use_adapters_of_different_kinds(folders, family):
    model = gu.load(folders(family))
    kinds = ["prefix", "lora", "prompt"] if family in TWO_HALVES else ["lora", "prompt", "prefix", "ia3"]
    kinds = [*kinds, "llama-adapter", "bottleneck"]
    for seed, kind in enumerate(kinds):
        model = stirred(gu.adapt(model, CASES[kind], name=kind), kind, seed)
    alone = {name: logits(model, name, kept=True).split((5, 11, 1, 7)) for name in [*kinds, None]}
    for order in ([kinds[0], None, kinds[1], kinds[2]], [kinds[1], kinds[3], kinds[-1], None], kinds[-1:] * 4):
        mixed = logits(model, order, kept=True).split((5, 11, 1, 7))
        for i, name in enumerate(order):
            close(mixed[i], alone[name][i])
        assert order[0] == order[1] or (mixed[0] - alone[order[1]][0]).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_whole_methods_train_the_bases_own_numbers(folders, family):
    base = gu.load(folders(family))
    everything = Full().trained(base.network, "mine")
    assert sum(p.numel() for p in everything.values()) == sum(p.numel() for p in base.network.parameters())
    last = Freeze(layers=1).trained(base.network, "mine")
    assert set(last) < set(everything) and any("blocks.1." in n for n in last)
    assert not any("blocks.0." in n or "embed.tokens" in n for n in last)
    with pytest.raises(UsageError, match="blocks"):
        gu.adapt(base, Freeze(layers=9))


# --- closed forms of how much is trained (SYSTEMS 2.6, 2.10, 2.12, 2.13, L2.4, L2.5, L2.7) ---------------------------

BLOOM_560M = gu.models.bloom.Config(vocab_size=250880, hidden_size=1024, n_layer=24, n_head=16)


def count(method, config) -> int:
    """Trained numbers of a model of any size, without allocating it."""
    family = type(config).__module__
    with torch.device("meta"):
        network = __import__(family, fromlist=["build"]).build(config)
        made = method.add(network, "mine")
        return sum(p.numel() for p in method.trained(made, "mine").values())


def test_counts_of_the_labs():
    assert count(Full(), BLOOM_560M) == 559_214_592
    assert count(Prompt(length=4), BLOOM_560M) == 4_096
    assert count(Prompt(length=3), BLOOM_560M) == 3_072


def test_counts_are_the_closed_forms(folders):
    def trained(method):
        model = gu.adapt(gu.load(folders("llama")), method)
        return sum(p.numel() for p in method.trained(model.network, "mine").values())

    width, heads, kv, inner, layers = 36, 6, 2, 37, 2
    dim = width // heads
    assert trained(LoRA(rank=3, targets="attn.q attn.v")) == layers * 3 * (2 * width + width + kv * dim)
    assert trained(IA3()) == layers * (2 * kv * dim + inner)
    assert trained(Prompt(length=5)) == 5 * width
    assert trained(PrefixTuning(length=5)) == 5 * 2 * layers * kv * dim
    assert trained(LlamaAdapter(length=5, layers=2)) == layers * (5 * width + 1)
    assert trained(Bottleneck(width=4)) == layers * 2 * (2 * 4 * width + 4 + width)
