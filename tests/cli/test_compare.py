"""`groundup compare`: what the verb asks of the api, and what it says."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from groundup import api
from groundup.cli.main import main
from groundup.training.compared import Compared, Trial

UNTOUCHED = Trial("untouched", "exact match", (0.1,))
LORA = Trial("lora", "exact match", (0.8, 0.9), (1.0, 1.1), (10.0, 12.0), (10**9, 10**9), 460_800, 1_900_000)
LOST = Trial("bitfit", "exact match", why="this model has no \x1b biases")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The arguments of the last call; `found` among them is what it gives, an error is raised."""
    kept: dict[str, Any] = {"found": Compared("exact match", (UNTOUCHED, LORA, LOST), 2)}
    real = inspect.signature(api.compare)

    def stand_in(*args: Any, **kwargs: Any) -> Compared:
        arguments = dict(real.bind(*args, **kwargs).arguments)
        kept.update(arguments, **arguments.pop("settings", {}))
        arguments["on_progress"](1, 3, more="lora, seed 0: step 1/2")
        if isinstance(kept["found"], BaseException):
            raise kept["found"]
        return kept["found"]

    monkeypatch.setattr(api, "compare", stand_in)
    return kept


WORDS = ["compare", "m", "--data", "rows.jsonl", "--methods", "lora:rank=8;bitfit", "--out", "runs/all", "--seeds", "2"]


def test_the_table_and_the_recommendation(asked: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    more = [
        "--test",
        "test.jsonl",
        "--metrics",
        "exact-match,rouge-l",
        "--epochs",
        "2",
        "--seed",
        "5",
        "--checkpointing",
    ]
    assert main([*WORDS, *more]) == 0
    shown = capsys.readouterr()
    told = {
        "model": "m", "data": Path("rows.jsonl"), "methods": "lora:rank=8;bitfit", "out": Path("runs/all"), "seeds": 2,
        "test": Path("test.jsonl"), "metrics": ["exact-match", "rouge-l"], "epochs": 2.0, "seed": 5,
        "checkpointing": True, "device": "cpu", "answer_tokens": 256,
    }  # fmt: skip
    assert {name: asked[name] for name in told} == told and "steps" not in asked and "batch" not in asked
    lines = shown.out.splitlines()
    assert lines[0].split("  ")[0] == "" and "exact match (more is better)" in lines[0]
    assert lines[2].split() == [
        "lora",
        "0.850",
        "[0.215,",
        "1.49]",
        "0.0707",
        "460,800",
        "11.0",
        "1.0",
        "GB",
        "1.9",
        "MB",
    ]
    assert "bitfit failed: this model has no \\x1b biases" in shown.out
    assert lines[-1].startswith("Take lora, the only method that was trained to its end")
    assert "lora, seed 0: step 1/2" in shown.err and "runs/all/compare.png" in shown.err


def test_as_json_and_when_nothing_was_trained(asked: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    said = json.loads(line)
    assert (said["take"], said["trials"][1]["trained"], said["trials"][2]["why"][:4]) == ("lora", 460_800, "this")
    asked["found"] = Compared("exact match", (UNTOUCHED, LOST), 2)
    assert main(WORDS) == 1
    assert "nothing to recommend" in capsys.readouterr().out


def test_ctrl_c_says_how_it_goes_on(
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked["found"] = KeyboardInterrupt()
    assert main(WORDS) == 130
    assert "saved" not in capsys.readouterr().err  # nothing was begun
    (tmp_path / "runs" / "all").mkdir(parents=True)
    (tmp_path / "runs" / "all" / "compare.json").write_text("{}")
    assert main(WORDS) == 130
    assert (
        "groundup compare m --data rows.jsonl --methods 'lora:rank=8;bitfit' --out runs/all" in capsys.readouterr().err
    )
    assert main(["compare", "m", "--data", "d", "--out", "o"]) == 2  # no methods


def test_a_wrong_method_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "m", "--data", "d", "--out", str(tmp_path / "o"), "--methods", "lora,lore"]) == 2
    assert "there is no method 'lore'" in capsys.readouterr().err
