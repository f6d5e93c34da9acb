"""Every picture is drawn whole, from what the functions give, whatever the tokens are called."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from groundup.core import plots
from groundup.core.errors import UsageError
from groundup.interpret import look, pictures
from groundup.interpret.tables import mask, positions
from groundup.interpret.vectors import embedding_map, nearest_words

IDS = [5, 17, 3, 88, 41, 9, 60]
ODD = [" the", "\n", "$x_1$", "東京", "\x1b[2J", "a" * 30, "��"]


def size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


def test_attention_in_three_sizes(pair: Callable[[str], Any], tmp_path: Path) -> None:
    _, model = pair("gpt2-plain")
    maps = look.attention(model, IDS)
    pictures.attention(maps, tmp_path / "all.png")
    pictures.attention([maps[1]], tmp_path / "layer.png")
    pictures.attention([replace(maps[1], queries=ODD, keys=ODD)], tmp_path / "head.png", head=3)
    for name in ("all", "layer", "head"):
        width, height = size(tmp_path / f"{name}.png")
        assert 500 < width < 2500 and 300 < height < 2500
    with pytest.raises(UsageError, match="name the layer"):
        pictures.attention(maps, tmp_path / "no.png", head=3)


def test_one_part_is_chosen(pair: Callable[[str], Any], tmp_path: Path) -> None:
    _, model = pair("t5-first")
    maps = look.attention(model, IDS, answer=[12, 77])
    assert [m.path for m in pictures.chosen(maps, part="decoder.cross", layer=-1)] == ["decoder.blocks.2.cross"]
    assert {m.part for m in pictures.chosen(maps)} == {"encoder.attn"}
    pictures.attention(pictures.chosen(maps, part="decoder.cross"), tmp_path / "cross.png")
    with pytest.raises(UsageError, match="'cross'; there are encoder.attn, decoder.attn, decoder.cross"):
        pictures.chosen(maps, part="cross")
    with pytest.raises(UsageError, match="layers 0 to 2"):
        pictures.chosen(maps, layer=3)
    with pytest.raises(UsageError, match="one part"):
        pictures.attention(maps, tmp_path / "no.png")
    assert not (tmp_path / "no.png").exists()


def test_lens_maps_words_positions_and_masks(pair: Callable[[str], Any], tmp_path: Path) -> None:
    _, model = pair("llama-grouped")
    seen = look.logit_lens(model, IDS)
    pictures.lens(replace(seen, tokens=ODD), tmp_path / "lens.png")
    torch.manual_seed(0)
    found = embedding_map(torch.randn(7, 5), ODD, ["$a", "b", "b", "a", "a", "b", "c"])
    pictures.embedding_map(found, tmp_path / "map.png")
    pictures.nearest_words(nearest_words(torch.randn(3, 42), model), tmp_path / "words.png", names=ODD[:3])
    for case in ("llama-grouped", "gpt2-plain", "t5-first", "bloom-4-heads"):
        for table in positions(pair(case)[1], 40):
            pictures.positions(table, tmp_path / f"{case}.png")
            assert size(tmp_path / f"{case}.png")[0] > 500
    pictures.positions(positions("sinusoidal", 1, width=1)[0], tmp_path / "least.png")
    pictures.mask(mask("window", [5, 9], window=3), tmp_path / "mask.png")
    assert len(list(tmp_path.glob("*.png"))) == 9


def test_numbers_and_names_must_fit(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="2 lines and 1 columns"):
        plots.heat([[1.0]], tmp_path / "a.png", lines=["a", "b"], columns=["c"], title="t")
    with pytest.raises(UsageError, match="as many panels"):
        plots.squares([[None]], tmp_path / "a.png", lines=["a"], columns=["c"], title="t")
    with pytest.raises(UsageError, match="1 points"):
        plots.points([(0.0, 1.0)], [], ["a"], tmp_path / "a.png", title="t")
    assert not list(tmp_path.iterdir())
