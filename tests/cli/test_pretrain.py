"""`groundup pretrain`: what the verb asks of the api, and a whole small run with a model that answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from groundup import api
from groundup.cli.main import main
from groundup.training.loop import Run

RECIPE = """
family: gpt2
model: {n_layer: 1, n_head: 2, n_embd: 16, n_positions: 32}
tokenizer: {kind: bpe, vocabulary: 280}
data: DATA
steps: 50
batch: 4
learning_rate: 1e-2
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    data = tmp_path / "texts.txt"
    data.write_text("\n\n".join(f"line {i} of a text that says so" for i in range(30)))
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("DATA", str(data)))
    return path


def test_a_run_from_the_command_line_leaves_a_model(recipe: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "run"
    words = ["pretrain", str(recipe), "--out", str(out), "--steps", "3", "--json"]
    assert main(words) == 0
    shown = capsys.readouterr()
    done = json.loads(shown.out)
    assert (done["steps"], done["out"]) == (3, str(out))  # the flag goes before the file
    assert "a gpt2 of" in shown.err and "--steps 3" in shown.err
    assert main(["generate", str(out), "line 3", "--max-tokens", "2"]) == 0
    capsys.readouterr()
    assert main(words) == 2 and "is not overwritten" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 2 and "is finished" in capsys.readouterr().err


def test_a_dry_run_writes_nothing(recipe: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["pretrain", str(recipe), "--out", str(tmp_path / "run"), "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert "nothing was trained" in shown.out and "--steps 50" in shown.err
    assert not (tmp_path / "run").exists()


def test_a_fault_is_one_line(recipe: Path, tmp_path: Path, capsys: Any) -> None:
    recipe.write_text(recipe.read_text().replace("n_layer", "n_layers"))
    assert main(["pretrain", str(recipe), "--out", str(tmp_path / "run")]) == 2
    assert "gpt2 has no key n_layers" in capsys.readouterr().err
    assert main(["pretrain", str(tmp_path / "none.yaml"), "--out", str(tmp_path / "run")]) == 1
    assert "no such file" in capsys.readouterr().err


def test_flags_reach_the_api_and_ctrl_c_says_how_to_go_on(
    recipe: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    out = tmp_path / "run"

    def stopped(given: Path, **how: Any) -> Run:
        asked.update(how, recipe=given)
        out.mkdir()
        (out / "run.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "pretrain", stopped)
    words = [
        "pretrain",
        str(recipe),
        "--out",
        str(out),
        "--minutes",
        "2",
        "--label-smoothing",
        "0.1",
        "--checkpointing",
    ]
    assert main(words) == 130
    assert f"groundup {' '.join(words)} --resume" in capsys.readouterr().err
    told = {"minutes": 2.0, "label_smoothing": 0.1, "checkpointing": True, "recipe": recipe, "device": "cpu"}
    assert {key: asked[key] for key in told} == told and "steps" not in asked and "batch" not in asked
