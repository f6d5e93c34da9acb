"""Every example runs, and says what it promises."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(*command: object) -> str:
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, timeout=1100)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.timeout(600)
def test_answer(starter):
    starter("smollm2-135m-instruct")
    said = run(EXAMPLES / "answer.py")
    assert "Paris" in said and '{"colour": "' in said


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_tune(starter, tmp_path):
    starter("smollm2-135m-instruct")
    said = run(EXAMPLES / "tune.py", tmp_path)
    assert "takes effect" in said and (tmp_path / "run" / "loss.png").exists() and (tmp_path / "merged").is_dir()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_methods(starter):
    starter("smollm2-135m-instruct")
    said = run(EXAMPLES / "methods.py")
    assert said.count("the same as alone: True") == 4 and "LoRA rank 4 on 210 linears" in said


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_vera(starter, tmp_path):
    starter("smollm2-135m-instruct")
    said = run(EXAMPLES / "vera.py", tmp_path / "run", 4)
    assert "vera: 24,960 trained numbers in 120 tensors" in said and "merged, the logits move by" in said


@pytest.mark.timeout(600)
def test_look(starter, tmp_path):
    starter("smollm2-135m-instruct")
    starter("all-minilm-l6-v2")
    said = run(EXAMPLES / "look.py", tmp_path)
    assert "' Paris'" in said and "stands at 1\n" in said
    assert {p.stem for p in tmp_path.glob("*.png")} == {"lens", "heads", "head", "map", "positions", "mask"}


@pytest.mark.timeout(600)
def test_data(starter, tmp_path):
    starter("tweets")
    said = run(EXAMPLES / "data.py", tmp_path)
    assert "texts have two labels" in said and "ties counted as right" in said and "user " in said
    assert (tmp_path / "train.jsonl").exists() and len(list((tmp_path / "parts").iterdir())) == 3


@pytest.mark.timeout(600)
def test_pretrain(tmp_path):
    said = run(EXAMPLES / "pretrain.py", tmp_path / "numbers", 20)  # a run that is worth something takes two minutes
    assert "with positions: validation loss" in said and "without positions: validation loss" in said
    assert (tmp_path / "numbers" / "with positions" / "best" / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_newsroom(tmp_path):
    said = run(EXAMPLES / "newsroom.py", "--minutes", "1", "--out", tmp_path / "news")
    assert "tuned + schema" in said and (tmp_path / "news" / "desks.png").exists()


def test_examples_are_short():
    assert all(
        len(p.read_text().splitlines()) < 40 for p in EXAMPLES.glob("*.py") if p.name not in ("newsroom.py", "vera.py")
    )
