"""The command line as a whole: exit codes, what goes to which stream, help that costs nothing."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import groundup
from groundup.cli import doctor as doctor_verb
from groundup.cli.main import VERBS, main
from groundup.core.errors import GateError, GroundupError, UsageError

ROOT = Path(__file__).parents[2]


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    for verb in VERBS:
        assert f" {verb} " in shown.out


@pytest.mark.parametrize(
    "verb",
    [[verb] for verb in VERBS if verb not in ("data", "interpret")]
    + [["data", "check"], ["data", "show-mask"]]
    + [["interpret", name] for name in ("attention", "lens", "embeddings", "positions", "mask", "words")],
)
def test_help_of_every_verb_has_an_example_and_says_what_each_flag_is(
    verb: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    assert main([*verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"groundup {' '.join(verb)}" in shown.split("Example:")[1]
    assert "--json" in shown and "--config" in shown
    cells = [line.strip("│ ").split("  ")[-1] for line in shown.splitlines() if re.search(r"│ [* ] +--|│ --", line)]
    assert len(cells) >= 2 and all(len(cell.strip()) > 3 and not cell.startswith("--") for cell in cells), cells


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == groundup.__version__


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["generat", "x"], 'Did you mean "generate"?'),
        (["generate", "m", "p", "--temprature", "1"], "Did you mean --temperature?"),
        (["generate"], "MODEL"),
        (["classify", "m", "so", "far"], "nothing here takes 'far': a text of several words goes in quotes"),
        (["generate", "m", "p", "--max-tokens", "many"], '"many" into int'),
        (["generate", "m", "p", "--precision", "float7"], "float32"),
        (["generate", "m", "p", "surplus"], "surplus"),
        (["evaluate", "m"], "--data"),
        (["generate", "m", "--data", "rows.jsonl"], "--out"),
        (["chat", "m", "--config", "/nowhere.yaml"], "/nowhere.yaml"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_says_what_to_do(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err
    assert len(shown.err.splitlines()) <= 2
    assert "Traceback" not in shown.err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (GroundupError("it broke"), 1, "groundup: it broke"),
        (UsageError("not so"), 2, "groundup: not so"),
        (GateError("below"), 3, "groundup: below"),
        (OSError(28, "No space left on device", "runs/mine"), 1, "No space left on device: runs/mine"),
        (MemoryError(), 1, "out of memory"),
        (KeyboardInterrupt(), 130, "stopped"),
        (RuntimeError("odd\nthing"), 1, "unexpected RuntimeError: odd thing"),
        (GroundupError("evil \x1b[31mfile\u202e"), 1, r"evil \x1b[31mfile\u202e"),
    ],
)
def test_errors_are_a_line_or_two_and_a_traceback_only_with_debug(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(doctor_verb, "run", fail)
    fail.__annotations__ = {}
    assert main(["doctor"]) == code
    shown = capsys.readouterr().err
    assert said in shown and "Traceback" not in shown and len(shown.splitlines()) <= 2
    assert main(["doctor", "--debug"]) == code
    assert "Traceback" in capsys.readouterr().err


def test_debug_behind_two_dashes_is_a_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    from groundup.cli import generate

    seen: list[str | None] = []

    def run(model: str, prompt: str | None = None, /) -> None:
        seen.extend([model, prompt])

    monkeypatch.setattr(generate, "run", run)
    assert main(["generate", "m", "--", "--debug"]) == 0
    assert seen == ["m", "--debug"]


def python(*words: str, **more: object) -> "subprocess.CompletedProcess[str]":
    code = "import sys; from groundup.cli.main import main; code = main(sys.argv[1:]); "
    code += "heavy = {'torch', 'numpy', 'transformers', 'matplotlib', 'pyarrow', 'pydantic'} & set(sys.modules); "
    code += "sys.exit(code or (77 if heavy else 0))"
    return subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=ROOT / "src", timeout=60, **more
    )


@pytest.mark.parametrize("words", [["--help"], ["merge", "--help"], ["list"], ["list", "--json"], ["--version"]])
def test_help_and_list_load_nothing_heavy(words: list[str]) -> None:
    done = python(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""


def test_a_reader_that_went_away_is_no_traceback() -> None:
    code = "import sys; from groundup.cli.main import main; sys.exit(main(['--help']))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT / "src"
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert "Traceback" not in said and "Exception" not in said
