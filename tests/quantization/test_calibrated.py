"""Rounding by what texts send through: GPTQ against its definition, static int8 against torch's own, both through whole networks."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
import transformers

import groundup as gu
from groundup.cli.main import main
from groundup.core.errors import GroundupError, UsageError
from groundup.evaluation.cost import read_all
from groundup.quantization.blocks import GRIDS, PACK, UNPACK, Blocks
from groundup.quantization.gptq import DAMPING, compensate
from groundup.quantization.kinds import parse
from groundup.quantization.listen import Gram, Ranges
from groundup.quantization.shrink import holders, store
from groundup.quantization.static import Static, StaticInt8

MADE = ["q8_0", "q4_0", "q4_1"]


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated(tokens: int, width: int) -> torch.Tensor:
    """Inputs that mostly lie in a few directions, as those of real linears do."""
    return drawn(tokens, 6, seed=3) @ drawn(6, width, seed=4) + 0.3 * drawn(tokens, width, seed=5)


def heard(x: torch.Tensor) -> Gram:
    gram = Gram()
    gram.see(x, x)
    return gram


@pytest.mark.parametrize("kind", MADE)
def test_bytes_are_what_unpacking_reads(kind):
    group = drawn(7, 32) * torch.logspace(-3, 2, 7)[:, None]
    scale, least, low, high = GRIDS[kind](group)
    codes = ((group - least[:, None]) / scale[:, None]).round().clamp(low, high)
    found = UNPACK[kind](PACK[kind](scale, least, codes)[:, None])[:, 0]
    torch.testing.assert_close(found, codes * scale[:, None] + least[:, None], rtol=1e-6, atol=1e-9)
    assert (found - group).abs().max(1).values.le(0.6 * scale + 1e-3 * group.abs().amax(1)).all()


def by_definition(w: torch.Tensor, gram: torch.Tensor, rounding) -> torch.Tensor:
    """Optimal brain quantization, column by column, by the inverse itself (arXiv 2210.17323, equations 2 and 3)."""
    w, h = w.double().clone(), gram.double().clone()
    h += DAMPING * h.diagonal().mean() * torch.eye(len(h))
    inverse, left, out = torch.linalg.inv(h), list(range(len(h))), torch.zeros_like(w)
    for j in range(len(h)):
        q = rounding(w[:, j])
        out[:, j], error = q, (w[:, j] - q) / inverse[0, 0]
        w[:, left] -= error[:, None] * inverse[0]
        inverse = (inverse - torch.outer(inverse[:, 0], inverse[0]) / inverse[0, 0])[1:, 1:]
        left = left[1:]
    return out


@pytest.mark.parametrize("group", [1, 5, 16])
def test_it_is_the_definition(group):
    w, x = drawn(9, 16, seed=1), correlated(60, 16)

    def rounding(column: torch.Tensor) -> torch.Tensor:
        return (column * 4).round() / 4

    ours = compensate(w, x.T @ x, lambda columns: rounding, group)
    torch.testing.assert_close(ours.double(), by_definition(w, x.T @ x, rounding), rtol=1e-6, atol=1e-6)
    assert not torch.equal(ours, rounding(w))


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("width", [96, 50])
def test_what_comes_out_is_nearer_than_by_plain_rounding(kind, width):
    w, x = drawn(40, width, seed=1), correlated(400, width)
    plain, ours = parse(kind).store(w).dense(), parse(kind).calibrated(w, heard(x)).dense()
    off = [(x @ (each - w).T).square().mean() for each in (plain, ours)]
    assert off[1] < 0.5 * off[0]
    assert (ours - w).square().mean() > (plain - w).square().mean()  # the matrix itself is farther off


def test_inputs_that_have_nothing_in_common_change_nothing():
    """Without correlations there is nothing to make up for: plain rounding."""
    w, gram = drawn(11, 64), Gram()
    gram.see(torch.eye(64), torch.eye(64))
    for kind in MADE:
        scale, least, low, high = GRIDS[kind](w[:, :32])
        wanted = ((w[:, :32] - least[:, None]) / scale[:, None]).round().clamp(low, high) * scale[:, None] + least[
            :, None
        ]
        torch.testing.assert_close(parse(kind).calibrated(w, gram).dense()[:, :32], wanted, rtol=1e-5, atol=1e-5)


def test_an_input_that_was_always_zero_is_rounded_too():
    x = correlated(50, 64)
    x[:, 7] = 0
    assert torch.isfinite(parse("q4_1").calibrated(drawn(5, 64), heard(x)).dense()).all()


# --- static int8 ------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bias", [False, True])
def test_static_is_torchs(bias):
    if "onednn" not in torch.backends.quantized.supported_engines:
        pytest.skip("torch's quantized products have no engine here")
    w, x, b = drawn(20, 33, seed=1), drawn(64, 33, seed=2) + 0.4, drawn(20, seed=3)
    seen, y = Ranges(), x @ w.T + (b if bias else 0)
    seen.see(x, y)
    ours = StaticInt8().calibrated(w, seen)
    (sx, zx), (sy, zy) = ours.inputs.tolist(), ours.outputs.tolist()
    torch.backends.quantized.engine = "onednn"
    weight = torch.quantize_per_channel(w, ours.scale[:, 0].double(), torch.zeros(20, dtype=torch.long), 0, torch.qint8)
    packed = torch.ops.quantized.linear_prepack(weight, b if bias else None)
    theirs = torch.ops.quantized.linear(torch.quantize_per_tensor(x, sx, int(zx), torch.quint8), packed, sy, int(zy))
    apart = (theirs.dequantize() - ours.matmul(x, b if bias else None)).abs() / sy
    assert apart.max() < 1.01 and (apart > 0.5).float().mean() < 0.01  # a step where a half falls, and nowhere else
    assert (ours.matmul(x, b if bias else None) - y).abs().max() < 4 * sy


def test_ranges_that_nobody_observed_spoil_it():
    """The negative control: as in a lab that forgets to calibrate, all that is outside -1 .. 1 is cut."""
    w, x = drawn(20, 33, seed=1), 3 * drawn(64, 33, seed=2)
    seen, blind = Ranges(), Ranges()
    seen.see(x, x @ w.T)
    blind.see(torch.tensor([[-1.0, 1.0]]), torch.tensor([[-1.0, 1.0]]))
    right, wrong = ((StaticInt8().calibrated(w, s).matmul(x) - x @ w.T).square().mean() for s in (seen, blind))
    assert wrong > 1000 * right


# --- through networks -------------------------------------------------------------------------------------------------

IDS = {"vocab_size": 97, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
CONFIGS = {
    "llama": {"hidden_size": 36, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2, "intermediate_size": 41},
    "bert": {"hidden_size": 35, "num_hidden_layers": 2, "num_attention_heads": 5, "intermediate_size": 41},
    "t5": {"d_model": 35, "d_kv": 6, "d_ff": 41, "num_layers": 2, "num_heads": 5, "decoder_start_token_id": 0},
}  # fmt: skip
CLASSES = {"llama": "LlamaForCausalLM", "bert": "BertForMaskedLM", "t5": "T5ForConditionalGeneration"}
ROWS = [[(7 * i + n) % 97 for i in range(20 + n)] for n in range(12)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    def make(family: str):
        path = tmp_path_factory.mktemp(family)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            made = getattr(transformers, CLASSES[family])(
                transformers.AutoConfig.for_model(family, **IDS, **CONFIGS[family])
            )
            for name, p in made.named_parameters():
                p.data = torch.randn(p.shape) * 0.25 + (p.ndim == 1 and name.endswith("weight"))
            made.save_pretrained(path)
        return path

    return make


def inputs_of(network: torch.nn.Module, name: str, run) -> torch.Tensor:
    found = []
    handle = holders(network)[name].register_forward_hook(lambda part, given, y: found.append(given[0]))
    run(network)
    handle.remove()
    return torch.cat(found)


@pytest.mark.parametrize("family", list(CONFIGS))
def test_each_block_hears_the_rounded_ones_before_it(folder, family):
    model = gu.load(folder(family))

    def run(network: torch.nn.Module) -> None:
        read_all(model, ROWS, network)

    network, names = store(model.network, parse("q4_0"), "all", run)
    _, plainly = store(model.network, parse("q4_0"), "all")
    assert names == plainly and len(names) > 10
    assert not any(
        isinstance(h.weight, Blocks) for h in holders(model.network).values()
    )  # the model given is as it was
    last = next(n for n in reversed(names) if n.endswith(("attn.q", "self_attn.q")))
    for name, hears in ((names[0], model.network), (last, network)):
        wanted = parse("q4_0").calibrated(
            holders(model.network)[name].weight.dense(), heard(inputs_of(hears, name, run))
        )
        assert torch.equal(holders(network)[name].weight.packed, wanted.packed)  # type: ignore[union-attr]
    other = parse("q4_0").calibrated(
        holders(model.network)[last].weight.dense(), heard(inputs_of(model.network, last, run))
    )
    assert not torch.equal(holders(network)[last].weight.packed, other.packed)  # type: ignore[union-attr]


@pytest.mark.parametrize("family", list(CONFIGS))
def test_static_int8_of_a_family_is_kept_and_read(folder, family, tmp_path):
    model = gu.load(folder(family))
    rows = [{"text": " ".join(map(str, row))} for row in ROWS]
    with pytest.raises(UsageError, match="tokenizer"):
        gu.quantize(model, "static-int8", calibrate=rows)
    network, names = store(model.network, parse("static-int8"), "all", lambda net: read_all(model, ROWS, net))
    from dataclasses import replace

    small = replace(model, network=network)
    again = gu.load(gu.save(small, tmp_path / "small"))
    kept = holders(again.network)[names[0]].weight
    assert isinstance(kept, Static) and torch.equal(kept.inputs, holders(network)[names[0]].weight.inputs)  # type: ignore[union-attr]
    from groundup.evaluation.cost import cost

    lost = cost(model, again, ROWS)
    assert 0 < (lost.kl or 0) < 0.05 and cost(small, again, ROWS).max_dlogit == 0


def test_what_it_refuses(folder):
    model = gu.load(folder("llama"))

    def run(network: torch.nn.Module) -> None:
        read_all(model, ROWS, network)

    for kind in ("nf4", "int8", "llm-int8"):
        with pytest.raises(UsageError, match="does not look at activations"):
            store(model.network, parse(kind), "all", run)
    with pytest.raises(UsageError, match="head stands outside the blocks"):
        store(model.network, parse("q4_0"), "head", run)
    with pytest.raises(UsageError, match="--calibrate"):
        store(model.network, parse("static-int8"))
    with pytest.raises(GroundupError, match="heard none of the texts"):
        store(model.network, parse("q4_0"), "all", lambda network: None)
    assert not any(block._forward_pre_hooks for block in model.network.blocks)


@pytest.mark.timeout(600)
def test_from_the_command_line(starter, tmp_path, capsys):
    starter("all-minilm-l6-v2")
    data = tmp_path / "rows.jsonl"
    data.write_text(
        "".join(json.dumps({"text": f"A sentence about {n} cats and their {n + 1} dogs."}) + "\n" for n in range(40))
    )
    words = ["quantize", "all-minilm-l6-v2", "--calibrate", str(data), "--data", str(data)]
    for kind in ("static-int8", "int4"):
        assert main([*words, "--to", kind, "--out", str(tmp_path / kind)]) == 0
        assert json.loads((tmp_path / kind / "ledger.json").read_text())["costs"][-1]["calibrated"] is True
    assert main(["quantize", "all-minilm-l6-v2", "--to", "static-int8", "--out", str(tmp_path / "x")]) == 2
    assert "--calibrate rows.jsonl" in capsys.readouterr().err and not (tmp_path / "x").exists()
