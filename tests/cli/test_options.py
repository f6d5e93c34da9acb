"""Flags from a file: the command line wins, and nothing in the file is passed over."""

from pathlib import Path

import pytest

from groundup.cli import generate
from groundup.cli.main import main
from groundup.cli.options import Common, Machine, Sampling, Which, one_of, read_config, refuse_existing, words
from groundup.core.errors import UsageError


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Sampling, Machine, int]]:
    """What `generate` was called with."""
    calls: list[tuple[Sampling, Machine, int]] = []

    def run(
        model: str,
        prompt: str | None = None,
        /,
        *,
        n: int = 1,
        which: Which = Which(),
        sampling: Sampling = Sampling(),
        machine: Machine = Machine(),
        common: Common = Common(),
    ) -> None:
        calls.append((sampling, machine, n))

    monkeypatch.setattr(generate, "run", run)
    return calls


def test_the_file_fills_what_was_not_typed(tmp_path: Path, seen: list[tuple[Sampling, Machine, int]]) -> None:
    file = tmp_path / "flags.yaml"
    file.write_text("max-tokens: 7\ntop_p: 0.5\nstop: [END, '###']\ndevice: cuda\ntemperature: 1e-1\nn: 3\n")
    assert main(["generate", "m", "p", "--config", str(file), "--top-p", "0.25"]) == 0
    sampling, machine, n = seen[0]
    assert (sampling.max_tokens, sampling.top_p, sampling.stop, sampling.temperature) == (7, 0.25, ("END", "###"), 0.1)
    assert (machine.device, n) == ("cuda", 3)


def test_zero_is_zero_and_not_a_missing_value(tmp_path: Path, seen: list[tuple[Sampling, Machine, int]]) -> None:
    file = tmp_path / "flags.yaml"
    file.write_text("temperature: 0\nseed: 0\n")
    assert main(["generate", "m", "p", "--config", str(file)]) == 0
    assert (seen[0][0].temperature, seen[0][0].seed) == (0.0, 0)
    assert main(["generate", "m", "p", "--top-p", "0"]) == 0
    assert seen[1][0].top_p == 0.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max-token: 7\n", "max-token"),
        ("max-tokens: {a: 1}\n", "max-tokens must have"),
        ("max-tokens:\n", "max-tokens must have"),
        ("max-tokens: many\n", "many"),
        ("- a\n- b\n", "must hold lines"),
        ("", "must hold lines"),
        ("a: [1\n", "is no YAML"),
        ("config: other.yaml\n", "cannot name another"),
        ("seed: 1\nseed: 2\n", "'seed' stands twice"),
        ("x: !!python/object/apply:os.system ['true']\n", "is no YAML"),
        ("a: &a [x,x,x]\nb: &b [*a,*a,*a]\nc: [*b,*b,*b]\n", "b must have"),
    ],
)
def test_what_a_file_may_not_say(
    text: str, said: str, tmp_path: Path, seen: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "flags.yaml"
    file.write_text(text)
    assert main(["generate", "m", "p", "--config", str(file)]) == 2
    shown = capsys.readouterr().err
    assert said in shown and len(shown.splitlines()) <= 2
    assert not seen


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "flags.yaml"
    file.write_bytes(b"#" * (2 << 20))
    with pytest.raises(UsageError, match="2,097,152 bytes"):
        read_config(file)


def test_a_config_file_works_for_a_verb_of_a_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    file = tmp_path / "flags.yaml"
    file.write_text("max-tokens: 7\n")
    assert main(["data", "check", str(tmp_path / "rows.jsonl"), "--config", str(file)]) == 2
    assert "--max-tokens needs --model" in capsys.readouterr().err


def test_small_helpers(tmp_path: Path) -> None:
    assert words(["a, b", "c"]) == ["a", "b", "c"]
    one_of(steps=1, epochs=None)
    with pytest.raises(UsageError, match="--steps and --max-minutes exclude"):
        one_of(steps=0, max_minutes=2.0)
    refuse_existing(tmp_path)
    (tmp_path / "x").write_text("")
    with pytest.raises(UsageError, match="is not overwritten"):
        refuse_existing(tmp_path)
    with pytest.raises(UsageError, match="is not overwritten"):
        refuse_existing(tmp_path / "x")


def test_sampling_arguments_leave_the_schema_out_unless_given(tmp_path: Path) -> None:
    assert "schema" not in Sampling().arguments()
    file = tmp_path / "schema.json"
    file.write_text('{"type": "object"}')
    assert Sampling(json_schema=file).arguments()["schema"] == {"type": "object"}
    file.write_text("[1]")
    with pytest.raises(UsageError, match="no JSON schema but list"):
        Sampling(json_schema=file).arguments()
