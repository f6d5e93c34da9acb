"""What reaches a terminal: escapes, streams, JSON, progress."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from groundup.cli import output
from groundup.cli.progress import Progress, clock


def test_control_characters_become_escapes_and_language_stays() -> None:
    assert output.safe("a\x1b[2Jb\x07\r\x9b\u202e\u2028\x00") == r"a\x1b[2Jb\x07\x0d\x9b\u202e\u2028\x00"
    for text in ("line\n\tindented", "naïve Ünïcode", "日本語", "👩‍👩‍👧", "می‌خواهم", ""):
        assert output.safe(text) == text


@given(st.text())
def test_no_control_character_gets_through(text: str) -> None:
    shown = output.safe(text)
    assert not any((ord(char) < 32 and char not in "\n\t") or 127 <= ord(char) < 160 for char in shown)
    assert output.safe(shown) == shown


@given(st.text(), st.text())
def test_pieces_are_as_safe_as_the_whole(first: str, second: str) -> None:
    assert output.safe(first) + output.safe(second) == output.safe(first + second)


def test_results_go_to_standard_output_and_notes_do_not(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("name")
    table.add_row("[bold]x[/bold]")
    output.note("note")
    output.result({"a": "é\x1b", "b": 1}, "text", as_json=True)
    output.result({"a": 1}, "text \x1b", as_json=False)
    output.result({"a": 1}, table, as_json=False)
    shown = capsys.readouterr()
    assert shown.err == "note\n"
    first, second, *rest = shown.out.splitlines()
    assert json.loads(first) == {"a": "é\x1b", "b": 1} and "\x1b" not in first
    assert second == r"text \x1b"
    assert "[bold]x[/bold]" in "\n".join(rest)


def test_listing_aligns_and_nests() -> None:
    text = output.listing({"name": "x", "sizes": {"layers": 3, "none": None}, "stops": [1, 2], "empty": {}})
    assert text == "name   x\nsizes\n  layers  3\n  none    -\nstops  1, 2\nempty  -"


class Screen:
    """A stream into a file, which says that it is a terminal if told so."""

    def __init__(self, path: Path, *, terminal: bool = False) -> None:
        self.path = path
        self.stream = path.open("w", encoding="utf-8")
        self.stream.isatty = lambda: terminal  # type: ignore[method-assign]

    def text(self) -> str:
        self.stream.close()
        return self.path.read_text(encoding="utf-8")


def test_progress_without_a_terminal_is_plain_lines(tmp_path: Path) -> None:
    screen = Screen(tmp_path / "screen")
    with Progress("step", stream=screen.stream, seconds=1000) as progress:
        progress.update(1, 140)
        for step in range(2, 13):
            progress.update(
                step, 140, loss=1.23456, lr=9.5e-4, tokens_per_second=812.3, peak_memory=3.8e9, seconds_left=250
            )
        progress.say("kept \x1b")
    assert screen.text().splitlines() == [
        "step 1/140",
        r"kept \x1b",
        "step 12/140  0:04:10 left  loss 1.235  lr 0.00095  812 tokens/s  peak 3.8 GB",
    ]


def test_progress_says_how_long_it_takes(tmp_path: Path) -> None:
    screen = Screen(tmp_path / "screen")
    with Progress("row", stream=screen.stream, seconds=0) as progress:
        progress.update(5, 10)
        progress.first = (5, progress.first[1] - 60) if progress.first else None
        progress.update(8, 10)
    assert "row 8/10  0:00:40 left" in screen.text()
    assert clock(3661.4) == "1:01:01"


def test_progress_on_a_terminal_is_one_live_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    screen = Screen(tmp_path / "screen", terminal=True)
    with Progress("step", stream=screen.stream) as progress:
        progress.update(3, 9, loss=2.5, more="[red]\x1b[2J")
        progress.say("a line above")
    shown = screen.text()
    assert "step 3/9" in shown and "loss 2.5" in shown and "a line above" in shown
    assert "\x1b[2J" not in shown and "[red]" in shown
