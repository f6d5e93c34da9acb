"""Tiny random models of the reference library and our networks with the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from parity.oracles import CASES, load, write_reference
from torch import nn

Pair = tuple[nn.Module, Any]


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    """`pair(name)` -> (the reference, our network) of one of the parity cases, made once."""
    kept: dict[str, Pair] = {}

    def make(name: str) -> Pair:
        if name not in kept:
            case = next(c for c in CASES if c.name == name)
            folder: Path = tmp_path_factory.mktemp(name)
            reference = write_reference(case, folder)
            reference.generation_config.pad_token_id = 0
            kept[name] = (reference, load(case.module, folder).network)
        return kept[name]

    return make


@pytest.fixture
def draw_prompts() -> Callable[..., list[list[int]]]:
    def make(*lengths: int, seed: int = 3) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        return [torch.randint(2, 97, (n,), generator=generator).tolist() for n in lengths]

    return make
