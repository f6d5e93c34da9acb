"""The library's products against their PyTorch reference, on every path that this machine has, at odd sizes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from groundup.core.errors import GroundupError, UsageError
from groundup.kernels import packing
from groundup.kernels.library import FORCED, Library, library, paths
from groundup.kernels.packing import LAYOUTS, Parts
from groundup.nn.linear import Linear
from groundup.nn.storage import Dense
from groundup.quantization.integers import Int8
from groundup.quantization.kinds import parse
from groundup.quantization.packed import Packed, packable, packed

SHAPES = [(1, 1), (16, 32), (17, 33), (100, 70), (48, 576)]
PATHS = [name for name, here in paths() if here]
MADE = ["q8_0", "q4_0", "q4_1", "int8", "int8:per=tensor"]

pytestmark = pytest.mark.skipif(not PATHS, reason="the compiled library is not here")


def by(name: str) -> Library:
    found = library()
    assert found is not None
    return Library(found.functions, found.paths, found.paths.index(name))


def drawn(layout, out, width, seed=0):
    g = torch.Generator().manual_seed(seed)
    groups = -(-width // 32)
    codes = torch.randint(0, 2**layout.bits, (out, groups, 32), dtype=torch.uint8, generator=g)
    if width % 32:
        codes[:, -1, width % 32 :] = layout.zero
    scales = torch.rand(*((out,) if layout.whole else (out, groups)), generator=g)
    least = torch.randn(out, groups, generator=g).half() if layout.least else None
    return Parts(codes, scales if layout.whole else scales.half(), least), g


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", LAYOUTS)
def test_products_are_the_references(kind, path):
    layout = LAYOUTS[kind]
    for out, width in SHAPES:
        parts, g = drawn(layout, out, width)
        tiles = packing.pack(parts, layout)
        for rows in (1, 2, 3, 8, 17, 70):
            x, bias = torch.randn(rows, width, generator=g), torch.randn(out, generator=g)
            mine = packing.native_product(by(path), x, tiles, layout, out, bias)
            reference = packing.product(x, parts, layout, bias)
            assert (mine - reference).abs().max() < 4e-6 * reference.abs().max(), (out, width, rows)


@pytest.mark.parametrize("path", PATHS)
def test_all_codes_meet_all_activations_without_overflow(path):
    """-128 and 127 against the largest activations, which pairs of 16 bits must not overflow on."""
    for kind in ("q8_0", "int8", "q4_0", "q4_1"):
        layout = LAYOUTS[kind]
        for code in (0, 2**layout.bits - 1):
            parts, _ = drawn(layout, 16, 64)
            parts = Parts(torch.full_like(parts.codes, code), torch.ones_like(parts.scales), parts.least)
            for sign in (1.0, -1.0):
                x = sign * torch.ones(2, 64)
                mine = packing.native_product(by(path), x, packing.pack(parts, layout), layout, 16)
                assert torch.allclose(mine, packing.product(x, parts, layout), rtol=1e-5)


@pytest.mark.parametrize("path", PATHS)
def test_zeros_outliers_and_no_numbers(path):
    layout = LAYOUTS["q8_0"]
    parts, _ = drawn(layout, 20, 96)
    tiles = packing.pack(parts, layout)
    x = torch.zeros(4, 96)
    x[1, 3], x[2, 40], x[3, 70] = 1e30, 1e-38, float("nan")
    mine, reference = packing.native_product(by(path), x, tiles, layout, 20), packing.product(x, parts, layout)
    assert (mine[0] == 0).all()
    assert torch.allclose(mine[1:3], reference[1:3], rtol=1e-5)
    assert mine[3].isnan().all()  # not a number that looks like one


@pytest.mark.parametrize("kind", MADE)
def test_packing_is_the_references(kind):
    for out, width in SHAPES:
        made = Packed(parse(kind).store(torch.randn(out, width, generator=torch.Generator().manual_seed(3))), library())
        parts = packing.unpack(made.tiles, made.layout, made.shape)
        assert torch.equal(packing.pack(parts, made.layout), made.tiles), (out, width)


@pytest.mark.parametrize("kind", MADE)
def test_packing_keeps_every_bit(kind):
    for out, width in SHAPES:
        storage = parse(kind).store(torch.randn(out, width, generator=torch.Generator().manual_seed(2)))
        made = Packed(storage, library())
        assert torch.equal(made.dense(), storage.dense())
        assert {n: t.tolist() for n, t in made.held.items()} == {n: t.tolist() for n, t in storage.held.items()}
        assert all(t.shape == storage.held[n].shape and t.dtype == storage.held[n].dtype for n, t in made.held.items())
        ids = torch.tensor([0, out - 1, 0])
        assert torch.allclose(made.rows(ids), storage.rows(ids), rtol=1e-6, atol=0)
        assert torch.equal(packing.rows(made.tiles, made.layout, made.shape, ids), storage.rows(ids))
        with pytest.raises(IndexError, match=f"row {out}"):
            made.rows(torch.tensor([out]))


def test_every_code_of_a_block_survives():
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    raw = torch.randint(0, 256, (3, 34 * 2), dtype=torch.uint8)  # -128 too, which rounding never makes
    raw[:, [1, 35]] &= 0x3B  # scales that are numbers
    storage = parse("q8_0").read({"packed": raw}, (3, 64))
    theirs = torch.from_numpy(dequantize(raw.numpy(), GGMLQuantizationType.Q8_0))
    assert torch.equal(Packed(storage, library()).dense(), theirs)
    assert torch.equal(Packed(storage, library()).held["packed"], raw)


def test_a_scale_that_is_no_number_is_refused():
    raw = torch.zeros(3, 34, dtype=torch.uint8)
    raw[2, :2] = torch.tensor([0, 0x7C])  # infinite
    with pytest.raises(GroundupError, match="not finite"):
        Packed(parse("q8_0").read({"packed": raw}, (3, 32)), library())


def test_in_training_the_plain_matrix_is_used():
    linear = Linear(64, 16, bias=False)
    linear.weight = Packed(parse("q8_0").store(torch.randn(16, 64)), library())
    x = torch.randn(3, 64)
    exact = x @ linear.weight.dense().T
    assert torch.allclose(linear.weight.matmul(x), exact, atol=1e-5)
    with torch.no_grad():
        rounded = linear.weight.matmul(x)
    assert not torch.allclose(rounded, exact, atol=1e-5)
    assert (rounded - exact).abs().max() < 0.02 * exact.abs().max()
    asked = x.clone().requires_grad_()
    linear.weight.matmul(asked).sum().backward()
    assert torch.allclose(asked.grad, linear.weight.dense().sum(0).expand(3, -1), atol=1e-5)


def test_what_has_no_layout_stays():
    for kind in ("nf4", "int8:affine=true", "llm-int8"):
        assert not packable(parse(kind).store(torch.randn(8, 64)))
    assert not packable(Dense(torch.randn(8, 64)))
    net = torch.nn.Sequential(Linear(64, 16, bias=False), Linear(16, 8, bias=False))
    net[0].weight, net[1].weight = Int8().store(torch.randn(16, 64)), Dense(torch.randn(8, 16))
    made, names = packed(net)
    assert names == ["0"] and isinstance(made[0].weight, Packed) and made[1].weight is not None
    assert not isinstance(net[0].weight, Packed)  # the one that was given is as it was


def test_a_lower_path_can_be_forced():
    program = "from groundup.kernels.library import library; print(library().name)"
    for name in PATHS:
        told = subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, FORCED: name}, capture_output=True, text=True
        )
        assert told.stdout.strip() == name


def test_a_path_that_cannot_run_is_refused(monkeypatch):
    monkeypatch.setenv(FORCED, "sse9")
    with pytest.raises(UsageError, match=r"GROUNDUP_ISA=sse9: this machine runs portable"):
        library()
