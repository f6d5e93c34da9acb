"""`groundup quantize`: a folder that loads, the ledger, the gate, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from groundup.cli.main import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = transformers.GPT2Config(vocab_size=97, n_embd=32, n_layer=1, n_head=2, n_positions=64)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_a_small_folder_and_its_ledger(folder: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "small"
    assert main(["quantize", str(folder), "--to", "nf4:double=false", "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["to"] == "nf4:double=false" and told["bytes_after"] < told["bytes_before"] and told["kl"] > 0
    assert json.loads((out / "ledger.json").read_text())["costs"][0]["kl"] == told["kl"]
    assert main(["info", str(out)]) == 0
    assert main(["quantize", str(folder), "--out", str(out)]) == 2 and "not overwritten" in capsys.readouterr().err


def test_the_gate_says_no_and_leaves_nothing(folder: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "small"
    assert main(["quantize", str(folder), "--to", "fp4", "--out", str(out), "--max-kl", "0"]) == 3
    assert "above the bar of 0" in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--to", "int3"], "no kind of storage 'int3'"),
        (["--to", "nf4:block=63"], "power of two"),
        (["--to", "q6_k"], "read, not made"),
        (["--targets", "attn.w"], "names no part"),
        (["--data", "none.jsonl"], "none.jsonl"),
    ],
)
def test_what_is_wrong_is_one_line(folder: Path, tmp_path: Path, capsys: Any, flags: list[str], why: str) -> None:
    assert main(["quantize", str(folder), "--out", str(tmp_path / "small"), *flags]) in (1, 2)
    said = capsys.readouterr().err
    assert why in said and "Traceback" not in said and not (tmp_path / "small").exists()
