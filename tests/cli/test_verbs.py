"""What each verb asks of the api, and what it says; no model is loaded here."""

import dataclasses
import inspect
import io
import json
from pathlib import Path
from typing import Any

import pytest

from groundup.api import LoRA, finetune
from groundup.cli.main import main
from groundup.cli.progress import Progress
from groundup.cli.runs import left, resumable
from groundup.core.errors import GroundupError
from groundup.evaluation.report import Report
from groundup.training.loop import Run
from groundup.training.settings import Settings


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The one JSON object on standard output."""
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)


def test_generate_streams_what_the_model_says_without_harm(calls: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "m", "hello", "--temperature", "0", "--adapter", "run", "--stop", "END"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "HELLO\\x1b!\n"
    assert calls.names == ["load", "stream"]
    assert calls["load"]["adapter"] == (Path("run"),)
    assert (calls["stream"]["temperature"], calls["stream"]["stop"]) == (0.0, ("END",))


def test_generate_as_json_and_several(calls: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "m", "hello", "--json"]) == 0
    assert said(capsys) == {"prompt": "hello", "answers": ["HELLO"]}
    assert main(["generate", "m", "hello", "--n", "3"]) == 0
    assert capsys.readouterr().out == "HELLO\n\nHELLO\n\nHELLO\n"
    assert calls["generate"]["n"] == 3


def test_generate_reads_the_prompt_from_standard_input(
    calls: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe"))
    assert main(["generate", "m"]) == 0
    assert capsys.readouterr().out.startswith("FROM A PIPE")


def test_generate_answers_a_file_and_goes_on_where_it_was_killed(
    calls: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"p{i}"}) + "\n" for i in range(5)))
    out = tmp_path / "out.jsonl"
    words = ["generate", "m", "--data", str(rows), "--out", str(out), "--max-tokens", "7"]
    calls.fail = GroundupError("killed")
    assert main(words) == 1
    assert not out.exists()
    calls.fail = None
    capsys.readouterr()
    assert main(words) == 0
    assert "2 of 5 rows are answered already" in capsys.readouterr().err
    assert len(calls["answer"]["prompts"]) == 3
    assert [json.loads(line)["answer"] for line in out.read_text().splitlines()] == ["P0", "P1", "P2", "P3", "P4"]
    assert main(words) == 2
    assert "is not overwritten" in capsys.readouterr().err


def test_generate_tells_of_the_tools_that_a_row_has(calls: Any, tmp_path: Path) -> None:
    rows, tools = tmp_path / "rows.jsonl", [{"type": "function", "function": {"name": "weather"}}]
    asked = {"messages": [{"role": "user", "content": "Rain?"}]}
    rows.write_text(json.dumps(asked | {"tools": tools}) + "\n" + json.dumps(asked) + "\n")
    assert main(["generate", "m", "--data", str(rows), "--out", str(tmp_path / "out.jsonl")]) == 0
    assert calls["answer"]["tools"] == [tools, None]


def test_chat_keeps_the_conversation(
    calls: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hi\n\nagain\n/new\nafresh\n/exit\nnever\n"))
    assert main(["chat", "m", "--system", "be brief", "--json"]) == 0
    assert said(capsys)["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "afresh"},
        {"role": "assistant", "content": "AFRESH\x1b!"},
    ]
    assert calls.names.count("stream") == 3
    monkeypatch.setattr("sys.stdin", io.StringIO("hi\n"))
    assert main(["chat", "m"]) == 0
    assert capsys.readouterr().out == "HI\\x1b!\n"


def test_info_and_doctor(calls: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "m", "--revision", "v1"]) == 0
    assert "evil \\x1b" in capsys.readouterr().out
    assert calls["load"]["revision"] == "v1"
    assert main(["doctor", "--json"]) == 0
    assert said(capsys)["memory"] == {"total": "23 GB"}


def test_merge_saves_and_overwrites_nothing(calls: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", "m", "--adapter", "run", "--out", str(tmp_path / "merged")]) == 0
    assert calls.names == ["load", "merge", "save"]
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "x").write_text("")
    assert main(["merge", "m", "--adapter", "run", "--out", str(tmp_path / "merged")]) == 2


def test_evaluate_writes_a_report_and_compares(calls: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "test.jsonl", tmp_path / "report.json"
    data.write_text('{"prompt": "p", "completion": "a"}\n')
    assert main(["evaluate", "m", "--data", str(data), "--out", str(out), "--metrics", "exact-match,rouge-l"]) == 0
    assert calls["evaluate"]["metrics"] == ["exact-match", "rouge-l"]
    assert "0.500 [" in capsys.readouterr().out
    assert Report.from_json(out).score("exact match").value == 0.5
    assert out.with_suffix(".png").exists()
    assert main(["evaluate", "m", "--data", str(data), "--against", str(out), "--json"]) == 0
    assert said(capsys)["scores"][0]["name"] == "exact match"
    assert main(["evaluate", "m", "--data", str(data), "--out", str(out)]) == 2


def test_a_gate_says_no_with_exit_code_3(calls: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "test.jsonl"
    data.write_text('{"prompt": "p", "completion": "a"}\n')
    assert main(["evaluate", "m", "--data", str(data), "--at-least", "exact match=0.5"]) == 0
    assert main(["evaluate", "m", "--data", str(data), "--at-least", "exact match=0.51"]) == 3
    assert "below the bar of 0.51" in capsys.readouterr().err
    assert main(["evaluate", "m", "--data", str(data), "--at-least", "exact match"]) == 2


def test_data_check_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_text('{"prompt": "p", "completion": "a"}\n')
    bad.write_text('{"prompt": "p", "completion": "a"}\n{"prompt": 3, "completion": "b"}\n')
    assert main(["data", "check", str(good)]) == 0
    assert "no problems found" in capsys.readouterr().out
    assert main(["data", "check", str(bad)]) == 1
    assert "bad.jsonl line 2" in capsys.readouterr().out
    assert main(["data", "check", str(bad), "--json"]) == 1
    assert said(capsys)["ok"] is False
    assert main(["data", "check", str(tmp_path / "none.jsonl")]) == 2


def test_list_and_an_unknown_download(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    assert "smollm2-135m-instruct" in [each["name"] for each in said(capsys)["starters"]]
    assert main(["download", "smollm3"]) == 2
    assert "smollm2-135m-instruct" in capsys.readouterr().err


def test_finetune_passes_every_flag_on(calls: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    words = ["finetune", "m", "--data", "rows.jsonl", "--out", str(out), "--minutes", "5", "--rank", "3", "--seed", "7"]
    assert main([*words, "--precision", "bfloat16"]) == 0
    assert calls.names == ["load", "adapt", "finetune"]
    assert calls["load"]["dtype"] == "float32"
    assert (calls["adapt"]["method"].rank, calls["adapt"]["seed"]) == (3, 7)
    asked = calls["finetune"]["settings"]
    assert (asked["minutes"], asked["steps"], asked["seed"], asked["precision"]) == (5.0, None, 7, "bfloat16")
    shown = capsys.readouterr().out
    assert "best  step 6, validation loss 0.5000" in shown and "last  step 9" in shown
    assert main([*words, "--json"]) == 0
    assert said(capsys)["best"] == str(out / "best")


def test_every_setting_of_the_api_has_a_flag(calls: Any, tmp_path: Path) -> None:
    assert main(["finetune", "m", "--data", "rows.jsonl", "--out", str(tmp_path / "run")]) == 0
    given = calls["finetune"]
    assert given.keys() | {"objective"} == inspect.signature(finetune).parameters.keys()  # it follows from the model
    assert given["settings"].keys() == Settings.__dataclass_fields__.keys()
    assert vars(calls["adapt"]["method"]).keys() == {field.name for field in dataclasses.fields(LoRA)}


def test_a_stopped_run_says_how_it_goes_on(calls: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "my run"
    calls.fail = KeyboardInterrupt()
    words = ["finetune", "m", "--data", "rows.jsonl", "--out", str(out), "--rank", "3"]
    assert main(words) == 130
    assert "--resume" not in capsys.readouterr().err
    out.mkdir()
    (out / "run.json").write_text("{}")
    assert main([*words, "--resume"]) == 130
    assert f"groundup finetune m --data rows.jsonl --out '{out}' --rank 3 --resume\n" in capsys.readouterr().err
    assert main(words) == 2
    assert "add --resume" in capsys.readouterr().err
    assert main(["finetune", "m", "--data", "d", "--out", "o", "--steps", "1", "--epochs", "1"]) == 2


def test_a_learning_rate_is_found_beside_the_run(
    calls: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["finetune", "m", "--data", "rows.jsonl", "--out", str(tmp_path / "run"), "--optimizer", "sgd"]
    assert main([*words, "--find-learning-rate"]) == 0
    assert "finetune" not in calls.names and calls["find_learning_rate"]["settings"]["optimizer"] == "sgd"
    shown = capsys.readouterr().out
    assert "--learning-rate 0.002\n" in shown and "--find-learning-rate" not in shown
    assert json.loads((tmp_path / "run-rates.json").read_text())["suggestion"] == 2e-3
    assert (tmp_path / "run-rates.png").read_bytes().startswith(b"\x89PNG") and not (tmp_path / "run").exists()
    assert main([*words, "--find-learning-rate"]) == 2
    assert "is not overwritten" in capsys.readouterr().err
    assert main([*words, "--find-learning-rate", "--dry-run"]) == 2


def test_the_command_that_goes_on_is_the_last_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("groundup.cli.runs.typed", ["finetune", "m"])
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(KeyboardInterrupt), resumable(tmp_path / "run.json", "--resume"), Progress("step") as progress:
        progress.update(1, 9)
        progress.update(2, 9)  # too soon after the first to be printed at once
        raise KeyboardInterrupt
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[:2] for line in lines[:-1]] == [["step", "1/9"], ["step", "2/9"], ["stopped", "and"]]
    assert lines[-1].endswith("--resume")


def test_a_run_names_the_average_where_it_is_the_best() -> None:
    out = Path("runs/mine")
    done = Run(out, out / "best", out / "last", 9, 6, 0.5, 0.75, 2.0, 12.5, 1234, 567, 89, 10**9)
    assert "average" not in left(done)
    better = dataclasses.replace(done, average=out / "average", average_step=9, average_loss=0.25)
    assert "average  step 9, validation loss 0.2500  runs/mine/average  <- the lowest" in left(better)
    assert "<-" not in left(dataclasses.replace(better, average_loss=0.6))
