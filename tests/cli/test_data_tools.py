"""`groundup data`: each verb says what it counted, writes what it kept, refuses to overwrite, and shows an example."""

from __future__ import annotations

import gzip
import json
import random
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groundup.cli.main import main
from groundup.core.errors import GroundupError

VERBS = ("check", "stats", "dedupe", "filter", "mix", "split", "decontaminate", "shots", "arithmetic", "show-mask")


def rows(path: Path, found: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return str(path)


def lines(path: Path) -> list[dict[str, Any]]:
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def labelled(tmp_path: Path) -> str:
    draw = random.Random(0)
    words = {
        "sport": ["goal", "match", "striker", "league", "cup"],
        "tech": ["chip", "phone", "software", "code", "screen"],
    }
    made = []
    for number in range(60):
        label = draw.choice(["sport", "tech"])
        made.append({"prompt": f"{number} {' '.join(draw.choices(words[label], k=6))}", "completion": label})
    return rows(tmp_path / "labelled.jsonl", [*made, made[0], {**made[1], "completion": "other"}])


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_has_an_example_that_is_a_command(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", verb, "--help"]) == 0
    shown = capsys.readouterr().out
    example = shown.split("Example:\n  ")[1].splitlines()[0]
    assert example.startswith(f"groundup data {verb} ") and "--json" in shown


def test_stats_with_and_without_the_baseline(labelled: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "stats", labelled, "--json"]) == 0
    found = said(capsys)
    assert found["rows"] == 62 and found["repeated"] == 2 and len(found["two_labels"]) == 1
    assert found["baseline"]["packed"] <= found["baseline"]["packed_optimistic"] and found["baseline"]["tfidf"] > 0.8
    assert main(["data", "stats", labelled, "--no-baseline"]) == 0
    assert "how hard" not in capsys.readouterr().out


def test_dedupe(labelled: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.jsonl.gz"
    words = ["data", "dedupe", labelled, "--exact", "--out", str(out)]
    assert main([*words, "--json"]) == 0
    assert said(capsys)["kept"] == len(lines(out)) == 61
    assert main(words) == 2
    assert "exists and is not overwritten" in capsys.readouterr().err
    assert main(["data", "dedupe", labelled, "--by", "prompt"]) == 0
    assert "1 of these answer differently" in capsys.readouterr().out


def test_filter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = "The river ran past the old mill. Nobody had lived there for years. A heron stood in the shallow water."
    pages = rows(
        tmp_path / "pages.jsonl", [{"text": good, "n": 3}, {"text": "Menu", "n": 1}, {"text": f"{good} Rats!", "n": 2}]
    )
    (tmp_path / "bad.txt").write_text("rats\n")
    out = tmp_path / "out.jsonl"
    assert main(["data", "filter", pages, "--c4", "--bad-words", str(tmp_path / "bad.txt"), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "pages.jsonl line 3: bad-words: The river" in shown and [row["n"] for row in lines(out)] == [3]
    assert main(["data", "filter", pages, "--score", "column:n", "--low", "--best", "0.4", "--json"]) == 0
    assert [removal["row"][-1] for removal in said(capsys)["removals"]] == ["1", "3"]
    for words, why in {
        (): "give --c4 or --score",
        ("--c4", "--score", "words"): "one of the two",
        ("--c4", "--best", "0.5"): "--best go with --score",
        ("--score", "words"): "Say which rows to keep",
        ("--score", "words", "--least", "1", "--sentences", "4"): "go with --c4",
        ("--score", "words", "--least", "1", "--model", "m"): "words needs none",
        ("--score", "perplexity", "--most", "9"): "name one (--model)",
    }.items():
        assert main(["data", "filter", pages, *words]) == 2
        assert why in capsys.readouterr().err


def test_split_then_decontaminate(labelled: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "parts"
    assert main(["data", "split", labelled, "--out", str(out), "--test", "9", "--json"]) == 0
    found = said(capsys)
    assert found["rows"]["test"] >= 9 and sum(found["rows"].values()) == 62
    assert main(["data", "split", labelled, "--out", str(out)]) == 2
    capsys.readouterr()
    assert main(["data", "decontaminate", str(out), str(out), "--json"]) == 0
    assert said(capsys)["leaks"] == []
    clean = tmp_path / "clean.jsonl"
    assert main(["data", "decontaminate", labelled, str(out)]) == 1
    assert "rows give away" in capsys.readouterr().out
    assert main(["data", "decontaminate", labelled, str(out), "--out", str(clean)]) == 0
    assert len(lines(clean)) == 62 - found["rows"]["test"]


def test_mix_and_go_on(labelled: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = rows(tmp_path / "b=c.jsonl", [{"prompt": f"b{i}", "completion": "b"} for i in range(9)])
    how = ["data", "mix", f"{labelled}=3", f"{other}=1", "--seed", "4", "--json"]
    for name, more in {
        "all": ["--rows", "40"],
        "one": ["--rows", "25"],
        "two": ["--rows", "15", "--after", "25"],
    }.items():
        assert main([*how, *more, "--out", str(tmp_path / f"{name}.jsonl")]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["place"] == 40
    made = {name: lines(tmp_path / f"{name}.jsonl") for name in ("all", "one", "two")}
    assert made["all"] == made["one"] + made["two"]
    for words, why in {(f"{other}=much",): "no weight", (other, f"{other}=2"): "given twice"}.items():
        assert main(["data", "mix", *words, "--out", str(tmp_path / "x.jsonl")]) == 2
        assert why in capsys.readouterr().err


def test_shots_and_arithmetic(labelled: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "shots.jsonl"
    words = ["data", "shots", labelled, labelled, "--k", "2", "--form", "text", "--instruction", "Judge."]
    assert main([*words, "--out", str(out)]) == 0
    assert all(row["prompt"].startswith("Judge.\n\n") and row["prompt"].count("\n\n") == 3 for row in lines(out))
    sums = tmp_path / "sums.jsonl"
    assert (
        main(["data", "arithmetic", "--tasks", "add,multiply", "--digits", "2", "--rows", "30", "--out", str(sums)])
        == 0
    )
    assert "30 rows of arithmetic, all checked" in capsys.readouterr().out
    assert [row["prompt"].split()[1] for row in lines(sums)] == ["+", "*"] * 15
    assert main(["data", "arithmetic", "--tasks", "power", "--out", str(tmp_path / "x.jsonl")]) == 2
    assert not (tmp_path / "x.jsonl").exists()


def test_check_of_the_price_needs_a_model(labelled: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", labelled, "--price", "8"]) == 2
    assert "--price needs --model" in capsys.readouterr().err
    assert main(["data", "check", labelled]) == 0
    assert "1 questions stand with different answers" in capsys.readouterr().out


def test_a_file_cannot_speak_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = rows(tmp_path / "evil.jsonl", [{"prompt": "a\x1b[31m", "completion": f"\x1b]{n}"} for n in range(3)] * 2)
    for verb in ("stats", "dedupe"):
        assert main(["data", verb, evil, *(["--exact"] if verb == "dedupe" else [])]) == 0
        assert "\x1b" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_commands_of_the_page_run(starter: Callable[[str], Path], tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    commands = [line for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    assert len(commands) == 14
    for command in commands:
        program, *words = shlex.split(command)
        try:
            starter("fortunes") if "fortunes" in words else None
        except GroundupError:  # no Debian to be asked
            continue
        code = "import sys; from groundup.cli.main import main; sys.exit(main(sys.argv[1:]))"
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=tmp_path)
        assert program == "groundup" and done.returncode == 0, (command, done.stderr)
