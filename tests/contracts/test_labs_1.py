"""The labs of module 1 run, reach the course's figures, and show what they say, in small."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LABS = Path(__file__).parents[2] / "labs"


def run(name: str, out: Path, pictures: set[str]) -> tuple[str, dict[str, Any]]:
    """What a lab prints with --quick, and its figures; it must have drawn these pictures."""
    command = [sys.executable, str(LABS / f"{name}.py"), "--quick", "--out", str(out)]
    how = {"env": {**os.environ, "OMP_NUM_THREADS": "1"}, "capture_output": True, "text": True, "timeout": 250}
    done = subprocess.run(command, **how)
    assert done.returncode == 0, done.stderr[-2000:]
    assert {p.stem for p in out.glob("*.png")} == pictures
    return done.stdout, json.loads((out / "facts.json").read_text())


def test_embedding(tmp_path: Path) -> None:
    _, facts = run("m1_embedding", tmp_path, {"positions"})
    assert facts["first"] == [0.0, 1.0] * 8 and 0.999 < facts["most"] <= 1.0
    assert facts["sum"] == [9, 16] and facts["off"] < 1e-6
    assert len(facts["odd"][2]) == 7 and facts["odd"][1][0] == pytest.approx(0.8414709848)


def test_decoder(tmp_path: Path) -> None:
    said, facts = run("m1_decoder", tmp_path, {"mask"})
    assert "3,127,784" in said and "544,552,720" in said
    assert (facts["small"], facts["large"]) == (3_127_784, 544_552_720)
    assert facts["sums"] < 1e-5 and facts["before"] < 1e-5 < 1e-3 < facts["after"]
    assert facts["weights"] == [1.0, 1.0] and facts["blind"] == 0.0  # the lab's own attention, as it stands there


def test_vocabulary(tmp_path: Path, starter: Any) -> None:
    starter("bible")
    _, facts = run("m1_vocabulary", tmp_path, {"loss"})
    assert facts["words"] == 24 and facts["trained"] < facts["random"] - 0.5
    assert all(len(said.split()) == 10 for said in facts["said"]) and facts["pairs"] < facts["frequency"]


def test_gpt2(tmp_path: Path) -> None:
    said, facts = run("m1_gpt2", tmp_path, {"seconds"})
    assert "124,439,808" in said and facts["sizes"] == [124_439_808, 1_557_611_200]
    assert facts["same"] is True


def test_encoder(tmp_path: Path) -> None:
    said, facts = run("m1_encoder", tmp_path, {"sizes"})
    assert "21,986,304" in said and facts["whole"] == 21_986_304
    assert len(set(facts["sweep"]["heads"])) == 1  # heads cost nothing
    assert facts["sweep"]["layers"][2] - facts["whole"] == 6 * 3_152_384


def test_similarity(tmp_path: Path, starter: Any) -> None:
    starter("all-minilm-l6-v2")
    _, facts = run("m1_similarity", tmp_path, {"random", "minilm"})
    trained, blank = facts["MiniLM"], facts["random"]
    assert trained["silhouette"] > 0.1 > blank["silhouette"]
    assert trained["order"] < 0.999 < 1 - 1e-5 < trained["bag"]
    assert trained["same"] - trained["cross"] > 0.05


def test_masked(tmp_path: Path, starter: Any) -> None:
    starter("bible")
    said, facts = run("m1_masked", tmp_path, {"right"})
    assert facts["random weights"] < 0.03 and facts["trained, one mask"] >= facts["random weights"]
    assert "In the beginning [MASK]" in said


def test_three_masks(tmp_path: Path) -> None:
    _, facts = run("m1_three_masks", tmp_path, {"masks"})
    kinds = facts["kinds"]
    assert kinds["encoder (BERT)"] == kinds["T5: what it reads"] == "all see all"
    assert kinds["decoder (GPT-2)"] == kinds["T5: what it says"] == "the past alone"


def test_attention(tmp_path: Path) -> None:
    _, facts = run("m1_attention", tmp_path, {"weights"})
    assert len(facts) == 5
    for name, (off, control) in facts.items():
        assert off < 1e-5 < 1e-2 < control, name


def test_reverse(tmp_path: Path) -> None:
    said, facts = run("m1_reverse", tmp_path, {"right"})
    assert "reverse:" in said and facts["with positions"] > facts["without"]


def test_topics(tmp_path: Path, starter: Any) -> None:
    starter("bible")
    starter("fortunes")
    _, facts = run("m1_topics", tmp_path, {"right"})
    assert set(facts) > {"from scratch", "from scratch, words too", "pretrained", "pretrained, words too"}
    assert facts["counted words"][0] > facts["commonest topic"][0]


def test_labs_are_short() -> None:
    lengths = {p.name: len(p.read_text().splitlines()) for p in LABS.glob("m1_*.py") if p.name != "m1_parts.py"}
    assert len(lengths) == 11 and max(lengths.values()) < 90, lengths
