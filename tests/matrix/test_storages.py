"""Every family with every kind of storage, and methods of tuning on top: what is stored counts as its plain matrix does."""

from __future__ import annotations

import json

import pytest
import torch
from families import FAMILIES, KIN, call, close, logits, stirred
from test_laws import CASES

import groundup as gu
from groundup.core.errors import UsageError
from groundup.quantization import shrink

KINDS = ["int8", "llm-int8", "nf4", "fp4:double=false", "q8_0", "int4"]
METHODS = ["lora", "dora", "ia3", "prompt", "prefix", "llama-adapter", "bottleneck", "bitfit"]


def often(kind: str, family: str) -> object:
    """Every kind on one family of each shape, and every family with one kind; the other pairs are for the slower run."""
    seen = family in ("bert", "llama", "t5") or (kind == "nf4" and family not in KIN)
    return pytest.param(kind, family, marks=() if seen else pytest.mark.slow)


def loosened(model: gu.Model) -> gu.Model:
    from dataclasses import replace

    return replace(model, network=shrink.loosened(model.network))


@pytest.mark.parametrize(("kind", "family"), [often(kind, family) for kind in KINDS for family in FAMILIES])
class TestStorages:
    def test_it_computes_with_the_matrix_that_it_stands_for(self, folders, family, kind):
        base = gu.load(folders(family))
        before = logits(base)
        small = gu.quantize(base, kind)
        assert torch.equal(logits(base), before)  # the one that was given is as it was
        assert (logits(small) - before).abs().max() > 1e-3
        assert small.costs[-1]["max_dlogit"] > 1e-3
        if kind != "llm-int8":  # its activations are rounded as well
            close(logits(small), logits(loosened(small)))
            if family != "bert":
                close(logits(small, kept=True), logits(small))

    def test_saved_and_loaded_to_the_bit(self, folders, family, kind, tmp_path):
        small = gu.quantize(gu.quantize(gu.load(folders(family)), kind), "q8_0", targets="embed.tokens")
        gu.save(small, tmp_path / "small")
        again = gu.load(tmp_path / "small")
        assert torch.equal(logits(again), logits(small))
        assert again.origin.fingerprint == small.origin.fingerprint
        assert [*shrink.stored(again.network)] == [*shrink.stored(small.network)]
        assert json.loads((tmp_path / "small" / "ledger.json").read_text())["costs"][0]["to"] == small.costs[0]["to"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("kind", "family"),
    [often(kind, family) for kind in ("int8", "nf4") for family in ("bert", "bloom", "gpt2", "llama", "t5")],
)
class TestTuned:
    def made(self, folders, family, method, kind):
        small = gu.quantize(gu.load(folders(family)), kind)
        try:
            return small, stirred(gu.adapt(small, CASES[method], name="mine"))
        except UsageError as error:
            pytest.skip(str(error))

    def test_an_adapter_on_top_is_the_one_on_the_plain_matrix(self, folders, family, method, kind):
        small, tuned = self.made(folders, family, method, kind)
        plain = stirred(gu.adapt(loosened(small), CASES[method], name="mine"))
        close(logits(tuned), logits(plain))
        assert torch.equal(logits(tuned, None), logits(small))
        for model in (tuned, plain):
            own = CASES[method].trained(model.network, "mine")
            for parameter in own.values():
                parameter.requires_grad_()
            call(model, "mine").square().sum().backward()
        grads = [CASES[method].trained(model.network, "mine") for model in (tuned, plain)]
        for name, parameter in grads[0].items():
            close(parameter.grad, grads[1][name].grad, factor=20)
        assert all(
            p.grad is None for n, p in tuned.network.named_parameters() if p.grad is not None and not p.requires_grad
        )

    def test_merged_into_the_plain_matrix(self, folders, family, method, kind):
        _, tuned = self.made(folders, family, method, kind)
        if method not in ("lora", "dora", "ia3"):
            pytest.skip("does not fold into a weight")
        merged = gu.merge(tuned)
        close(logits(merged), logits(tuned), factor=3)

    def test_saved_beside_its_base(self, folders, family, method, kind, tmp_path):
        small, tuned = self.made(folders, family, method, kind)
        gu.save(small, tmp_path / "small")
        gu.save(tuned, tmp_path / "adapter")
        again = gu.load(tmp_path / "small", adapter=tmp_path / "adapter")
        close(logits(again), logits(tuned), factor=2)


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_a_tied_head_goes_along_with_its_table(folders, family):
    small = gu.quantize(gu.load(folders(family)), "q8_0", targets="embed.tokens")
    names = [
        n for n, holder in shrink.holders(small.network).items() if holder.weight is small.network.embed.tokens.weight
    ]
    assert len(names) == 2 and len(shrink.stored(small.network)) == 1
    close(logits(small), logits(loosened(small)))


def test_what_cannot_be(folders, tmp_path):
    small = gu.quantize(gu.load(folders("llama")), "nf4")
    with pytest.raises(UsageError, match="already"):
        gu.quantize(small, "int8")
    for method in ("full", "freeze"):
        with pytest.raises(UsageError, match="cannot learn"):
            gu.adapt(small, CASES[method])
    with pytest.raises(UsageError, match="names no part"):
        gu.quantize(gu.load(folders("llama")), "nf4", targets="attn.nothing")
    gu.save(small, tmp_path / "small")
    config = tmp_path / "small" / "config.json"
    said = json.loads(config.read_text())
    said["quantization_config"]["quant_method"] = "awq"
    config.write_text(json.dumps(said))
    with pytest.raises(UsageError, match="'awq', which is not read"):
        gu.load(tmp_path / "small")
