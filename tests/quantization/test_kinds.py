"""Every kind of storage against what others compute: bitsandbytes, the package gguf, torch's own quantized tensors, numpy."""

from __future__ import annotations

import pytest
import torch

from groundup.core.errors import GroundupError, UsageError
from groundup.quantization.blocks import Q8_0
from groundup.quantization.fourbit import FP4, NF4, dynamic_table, float_table, normal_table
from groundup.quantization.integers import Int8, absmax, affine, product
from groundup.quantization.kinds import KINDS, line, parse
from groundup.quantization.llm_int8 import LLMInt8

SHAPES = [(64, 96), (37, 50), (128, 576), (7, 9), (1, 1)]
MADE = [
    "bf16",
    "fp16",
    "int8",
    "int8:affine=true",
    "int8:per=tensor",
    "llm-int8",
    "nf4",
    "nf4:double=false",
    "fp4:block=32",
    "q8_0",
    "q4_0",
    "int4",
]


def bnb():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("bitsandbytes")


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- whole numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("per", ["channel", "tensor"])
def test_affine_codes_are_torchs(per):
    w = drawn(37, 50) + 0.3
    codes, scale, zero = affine(w, per=per)
    if per == "channel":
        theirs = torch.quantize_per_channel(w, scale[:, 0].double(), zero[:, 0].long(), 0, torch.qint8)
    else:
        theirs = torch.quantize_per_tensor(w, float(scale), int(zero), torch.qint8)
    assert (theirs.int_repr() != codes).sum() <= 2  # halves that a reciprocal rounds the other way
    assert (theirs.dequantize() - Int8(per=per, affine=True).store(w).dense()).abs().max() <= float(scale.max()) * 1.01


def test_affine_uses_a_lopsided_range_and_absmax_does_not():
    w = torch.rand(20, 64, generator=torch.Generator().manual_seed(1))  # 0 to 1
    off = {k: (parse(k).store(w).dense() - w).square().mean() for k in ("int8", "int8:affine=true")}
    assert off["int8:affine=true"] < 0.3 * off["int8"]


def test_zero_rows_and_extremes():
    w = torch.zeros(5, 32)
    w[1] = 1e30
    w[2, 3] = -7.0
    for name in MADE:
        if name in ("fp16", "q8_0", "q4_0", "int4"):  # float16, or their scales are
            with pytest.raises(UsageError, match="too large|is above"):
                parse(name).store(w)
            w[1] = 1.0
        dense = parse(name).store(w).dense()
        assert torch.isfinite(dense).all()
        assert torch.equal(dense[0], torch.zeros(32)) or "nf4" in name or "fp4" in name  # a block spans rows there
        w[1] = 1e30


@pytest.mark.parametrize("width", [7, 1024, 1025, 2500])
def test_products_of_whole_numbers_are_exact(width):
    a = torch.randint(-127, 128, (5, width), generator=torch.Generator().manual_seed(2)).to(torch.int8)
    b = torch.full((3, width), 127, dtype=torch.int8)
    assert torch.equal(product(a, b).double(), (a.long() @ b.long().T).double())


@pytest.mark.parametrize("bits", [4, 8])
def test_figures_of_the_labs(bits):
    """L3.1 and L3.2: 0.5 in 4 and 8 bits, and the mean square error of a sine over 100 points."""
    v = torch.tensor([[0.5, 1.0]], dtype=torch.float64)
    codes, scale = absmax(v, bits=bits)
    assert float(codes[0, 0] * scale[0, 0].double()) == pytest.approx({4: 0.5714, 8: 0.5039}[bits], abs=1e-4)
    wave = torch.sin(torch.pi * torch.linspace(-1, 1, 100, dtype=torch.float64))[None]
    most = 2 ** (bits - 1) - 1
    codes, _ = absmax(torch.cat([wave, torch.ones(1, 1)], 1), bits=bits)
    error = (codes[:, :-1].double() / most - wave).square().mean()
    assert float(error) == pytest.approx({4: 1.5223e-3, 8: 4.5270e-6}[bits], rel=1e-3)


# --- four bits --------------------------------------------------------------------------------------------------------


def test_tables_are_bitsandbytes():
    theirs = bnb().functional
    assert (normal_table() - theirs.get_4bit_type("nf4", device="cpu")).abs().max() < 1e-6
    assert torch.equal(float_table(), theirs.get_4bit_type("fp4", device="cpu"))
    assert torch.equal(dynamic_table(), theirs.create_dynamic_map())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("block", [64, 128])
@pytest.mark.parametrize("kind", [NF4, FP4])
def test_codes_and_packing_are_bitsandbytes(kind, block, shape):
    theirs, w = bnb().functional, drawn(*shape)
    packed, state = theirs.quantize_4bit(w, blocksize=block, compress_statistics=False, quant_type=kind.name)
    ours = kind(block=block, double=False).store(w)
    assert torch.equal(packed.reshape(-1), ours.codes)
    assert torch.equal(state.absmax, ours.scale)
    packed, state = theirs.quantize_4bit(w, blocksize=block, compress_statistics=True, quant_type=kind.name)
    ours = kind(block=block).store(w)
    assert torch.equal(packed.reshape(-1), ours.codes)
    if len(ours.scale_codes) > 1:  # else scale - mean is 0, and 0 / 0 has any code
        assert (state.absmax.int() - ours.scale_codes.int()).abs().max() <= 1  # ties of two neighbours
    assert torch.equal(state.state2.absmax, ours.scale_scale)
    if shape[1] % block == 0 or shape == (
        37,
        50,
    ):  # bitsandbytes 0.50.2 gives other numbers back than it took for [64, 96]
        assert (theirs.dequantize_4bit(packed, state) - ours.dense()).abs().max() < 0.03


def test_nf4_is_nearer_to_a_normal_weight_than_fp4_and_double_scales_cost_an_eighth_of_a_bit():
    w = drawn(512, 512)
    off = {k: float((parse(k).store(w).dense() - w).square().mean().sqrt()) for k in ("nf4", "fp4")}
    assert off["nf4"] == pytest.approx(0.0926, abs=2e-3) and off["fp4"] == pytest.approx(0.1230, abs=2e-3)
    assert NF4(double=False).store(w).bits == 4.5
    assert NF4().store(w).bits == pytest.approx(4.127, abs=1e-3)


# --- LLM.int8() -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.0, 6.0])
@pytest.mark.parametrize(("i", "o", "n"), [(64, 96, 5), (37, 50, 7), (1100, 33, 9), (64, 32, 1)])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_products_are_bitsandbytes(i, o, n, threshold):
    b = bnb()
    w, x = (drawn(o, i) * 0.1).half().float(), drawn(n, i, seed=1)
    x[:, 3] *= 20
    x = x.half().float()  # it rounds its input to this
    theirs = b.nn.Linear8bitLt(i, o, bias=False, has_fp16_weights=False, threshold=threshold)
    theirs.weight = b.nn.Int8Params(w.clone(), requires_grad=False, has_fp16_weights=False)
    theirs = theirs.to("cpu").eval()
    with torch.no_grad():
        wanted = theirs(x)
    ours = LLMInt8(threshold=threshold).store(w).matmul(x)
    assert (ours - wanted).abs().max() < 1.5e-3 * wanted.abs().max()


def test_a_planted_outlier_breaks_plain_codes_and_not_the_decomposition():
    w, x = drawn(48, 64) * 0.1, drawn(20, 64, seed=1)
    x[:, 5] *= 60
    exact = x @ w.T
    off = {t: (LLMInt8(threshold=t).store(w).matmul(x) - exact).norm() / exact.norm() for t in (0.0, 6.0)}
    assert off[6.0] < 0.01 and off[0.0] > 2 * off[6.0]


# --- blocks of GGUF ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["q8_0", "q4_0", "q4_1"])
@pytest.mark.parametrize("shape", [(5, 32), (33, 96), (3, 50)])
def test_blocks_are_ggufs(name, shape):
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    w = drawn(*shape)
    ours = KINDS[name]().store(w)
    theirs = dequantize(ours.packed.numpy(), GGMLQuantizationType[name.upper()])
    assert torch.equal(ours.dense(), torch.from_numpy(theirs)[:, : shape[1]])
    assert (ours.dense() - w).abs().max() < {"q8_0": 0.02, "q4_0": 0.45, "q4_1": 0.3}[name]


def test_blocks_that_are_only_read():
    with pytest.raises(UsageError, match="read, not made"):
        parse("q6_k").store(drawn(4, 256))


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", MADE)
def test_a_storage_is_one_matrix_however_it_is_asked(name, shape):
    w = drawn(*shape)
    storage = parse(name).store(w)
    assert storage.shape == shape and storage.dense().shape == shape
    ids = torch.tensor([shape[0] - 1, 0, 0])
    assert torch.equal(storage.rows(ids), storage.dense()[ids])
    x = drawn(3, shape[1], seed=2).requires_grad_()
    y = storage.matmul(x, torch.ones(shape[0]))
    if name != "llm-int8":  # it rounds activations too
        assert torch.allclose(y, x @ storage.dense().T + 1, atol=1e-5)
    y.sum().backward()
    assert torch.allclose(x.grad, storage.dense().sum(0).expand(3, -1), atol=1e-5)
    again = parse(line(storage.kind)).read(storage.held, shape)
    assert again.kind == storage.kind and torch.equal(again.dense(), storage.dense())


@pytest.mark.parametrize("name", MADE)
def test_what_does_not_fit_is_refused(name):
    storage = parse(name).store(drawn(8, 64))
    for change in ({**storage.held, "more": torch.ones(1)}, dict(list(storage.held.items())[1:])):
        with pytest.raises(GroundupError, match="should hold"):
            storage.kind.read(change, (8, 64))
    first = next(iter(storage.held))
    with pytest.raises(GroundupError, match=first):
        storage.kind.read({**storage.held, first: storage.held[first][:1]}, (8, 64))


def test_names_and_settings():
    assert parse("int4") == KINDS["q4_1"]() and line(NF4(double=False)) == "nf4:double=false" and line(Q8_0()) == "q8_0"
    for text, why in {"nf5": "there is no kind", "nf4:size=3": "no setting", "nf4:block=7": "power of two",
                      "llm-int8:threshold=-1": "0 or more"}.items():  # fmt: skip
        with pytest.raises(UsageError, match=why):
            parse(text)


# --- sixteen bits -----------------------------------------------------------------------------------------------------


def test_halves_round_as_their_formats_say():
    """The table of docs/shrink.md; float16 is numpy's, bfloat16 the upper half of float32 with halves to the even."""
    values = torch.cat([drawn(1, 999, seed=7) * torch.logspace(-9, 4, 999), torch.tensor([[0.1, 257.0, 1e-8]])], 1)
    assert torch.equal(
        parse("fp16").store(values).dense(), torch.from_numpy(values.numpy().astype("float16").astype("float32"))
    )
    bits = values.view(torch.int32).long() & 0xFFFFFFFF
    upper = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) << 16
    upper = torch.where(upper >= 2**31, upper - 2**32, upper).to(torch.int32)
    assert torch.equal(parse("bf16").store(values).dense(), upper.view(torch.float32))
    said = {"bf16": [0.10009765625, 256.0, 1.0011717677116394e-08], "fp16": [0.0999755859375, 257.0, 0.0]}
    for kind, wanted in said.items():
        assert parse(kind).store(values).dense()[0, -3:].tolist() == wanted
    assert parse("bf16").store(torch.tensor([[65520.0]])).dense().item() == 65536
    with pytest.raises(UsageError, match="a weight of 6.55e.04 is above 65504"):
        parse("fp16").store(torch.tensor([[65520.0]]))
