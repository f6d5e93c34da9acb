"""Tiny models of the reference that tell their attention, and ours with the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import transformers

import groundup as gu
from parity.oracles import CASES, write_reference

Pair = tuple[Any, gu.Model]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost such small products more than they give."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    """`pair(case)` -> (the reference in its plain attention, our model), made once."""
    kept: dict[str, Pair] = {}

    def make(name: str) -> Pair:
        if name not in kept:
            case = next(c for c in CASES if c.name == name)
            folder = tmp_path_factory.mktemp(name)
            write_reference(case, folder)
            kind = getattr(transformers, case.reference)
            kept[name] = (kind.from_pretrained(folder, attn_implementation="eager").eval(), gu.load(folder))
        return kept[name]

    return make
