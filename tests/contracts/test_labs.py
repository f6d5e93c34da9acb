"""Every lab runs with small numbers, and leaves its facts and its picture."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LABS = Path(__file__).parents[2] / "labs"
CHEAP = {"m1_attention", "m1_embedding", "m1_encoder", "m1_three_masks", "m3_quantize_function"}
NAMES = sorted(p.stem for p in LABS.glob("m*_*.py") if not p.stem.endswith("_parts"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [n if n in CHEAP else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_a_lab_runs(name, tmp_path, request):
    for needed in ("smollm2-135m-instruct", "all-minilm-l6-v2"):
        if needed.split("-")[0] in (LABS / f"{name}.py").read_text():
            request.getfixturevalue("starter")(needed)
    command = [sys.executable, str(LABS / f"{name}.py"), "--quick", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=LABS.parent, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "out" / "facts.json").read_text()) and done.stdout.strip()


def test_every_lab_has_its_row():
    told = (LABS.parent / "docs" / "labs.md").read_text()
    assert [n for n in NAMES if f"`{n}.py`" not in told] == []
