"""Reports there and back, and several of them in one table."""

import json
from pathlib import Path

import pytest

from groundup.core.errors import GroundupError, UsageError
from groundup.evaluation.metrics import accuracy, perplexity
from groundup.evaluation.report import Confusion, Report, compare

REFERENCES = [
    json.dumps({"desk": desk, "headline": f"item {i} is filed"}) for i, desk in enumerate(["a", "b", "a"] * 5)
]
WORSE = ["nothing", *REFERENCES[1:10], *['{"desk": "a", "headline": "item"}'] * 5]


def test_a_report_scores_what_suits_the_references() -> None:
    report = Report.of("tuned", WORSE, REFERENCES, prompts=range(15), extra=[perplexity([2.0], [3])])
    assert [score.name for score in report.scores] == ["valid JSON", "right desk", "ROUGE-L of headline", "perplexity"]
    assert report.score("valid JSON").value == pytest.approx(14 / 15)
    assert report.rows[0] == {"prompt": 0, "reference": REFERENCES[0], "prediction": "nothing"}
    with pytest.raises(UsageError, match="no score 'bleu'.*valid JSON"):
        report.score("bleu")


def test_confusion_counts_by_hand() -> None:
    found = Confusion.count("desk", ["a", "b", None, "c", "b"], ["a", "a", "a", "b", "b"])
    assert found == Confusion("desk", ("a", "b"), ((1, 1, 1), (0, 1, 1)))
    report = Report.of("tuned", WORSE, REFERENCES)
    assert [each.of for each in report.confusions] == ["desk"]
    assert sum(sum(row) for row in report.confusions[0].counts) == 15
    assert report.confusions[0].counts[0][-1] == 1


def test_json_there_and_back(tmp_path: Path) -> None:
    report = Report.of("tüned", WORSE, REFERENCES, facts={"model": "m", "seed": 3, "seconds": 1.5})
    report.to_json(tmp_path / "report.json")
    assert Report.from_json(tmp_path / "report.json") == report


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "groundup report 1"}', '{"format": "other"}', "\xff"])
def test_a_broken_report_is_one_clear_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(GroundupError, match="is no report of groundup"):
        Report.from_json(path)
    with pytest.raises(GroundupError, match="cannot read the report"):
        Report.from_json(tmp_path / "absent.json")


def test_a_comparison_has_a_line_a_report_and_a_dash_for_what_is_not_there() -> None:
    untouched = Report.of("untouched", ["no"] * 15, REFERENCES)
    tuned = Report.of("tuned", WORSE, REFERENCES)
    words = Report("words", (accuracy(["a"] * 15, ["a", "b", "a"] * 5, name="right desk"),))
    table = compare([untouched, words, tuned])
    header, *lines = table.cells()
    assert header == ["", "valid JSON", "right desk", "ROUGE-L of headline", "rows"]
    assert [line[0] for line in lines] == ["untouched", "words", "tuned"]
    assert lines[1][1] == "-" and lines[1][2].startswith("0.667 [") and lines[1][-1] == "15"
    text = table.text()
    assert "right desk, tuned against untouched: +0.800 [" in text
    gains = table.gains()
    assert gains["valid JSON"].value == pytest.approx(14 / 15)
    # a baseline for one label, at the end, is not what the first report is set against
    assert compare([untouched, tuned, words]).gains() == gains
    with pytest.raises(UsageError, match="no reports"):
        compare([])


def test_no_gain_is_claimed_over_other_rows() -> None:
    one = Report.of("one", WORSE, REFERENCES)
    other = Report.of("other", WORSE, REFERENCES[::-1])
    assert compare([one, other]).gains() == {}
    assert compare([one]).gains() == {}


def test_the_rich_table_says_the_same() -> None:
    from rich.console import Console

    table = compare([Report.of("[red]x[/red]", WORSE, REFERENCES)]).table()
    console = Console(width=140, color_system=None)
    with console.capture() as capture:
        console.print(table)
    shown = capture.get()
    assert "[red]x[/red]" in shown and "right desk" in shown and "95 % intervals" in shown


def test_pictures(tmp_path: Path) -> None:
    report = Report.of("tuned", WORSE, REFERENCES, extra=[perplexity([9.0], [3])])
    report.png(tmp_path / "scores.png")
    assert (tmp_path / "scores.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(UsageError, match="between 0 and 1"):
        Report("p", (perplexity([9.0], [3]),)).png(tmp_path / "none.png")
