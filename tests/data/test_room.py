"""The room's own door: names are found when they are asked for, and not before."""

from __future__ import annotations

import subprocess
import sys

import pytest

from groundup import data


def test_names_are_found_and_listed() -> None:
    for name in data.__all__:
        assert getattr(data, name) is not None
        assert name in dir(data)
    assert callable(data.read) and callable(data.split)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = data.nonsense


def test_importing_the_room_loads_nothing() -> None:
    code = (
        "import sys, groundup.data; print([n for n in ('torch', 'numpy', 'pyarrow', 'tokenizers') if n in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_starters_names_the_data_that_can_be_had() -> None:
    assert "news" in data.starters()
