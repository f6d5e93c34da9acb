"""Leaks of each kind are found and named; the wording of a task is none."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from groundup.core.errors import UsageError
from groundup.data.leakage import decontaminate

WORDS = [a + b for a in ("ta", "ro", "mi", "ku", "se", "lo", "pa", "ne") for b in ("ban", "rel", "dis", "mon", "tur")]
TASK = "Read the following item with care and say in one word to which of the desks it belongs:\n\n"


def text(seed: int, words: int = 40) -> str:
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) + str(draw.randrange(9)) for _ in range(words))


def row(seed: int, answer: str = "tech", before: str = "") -> dict[str, Any]:
    return {"prompt": before + text(seed), "completion": answer}


TEST = [row(seed) for seed in range(20)]


@pytest.mark.parametrize(
    ("leak", "how", "of"),
    [
        ({"prompt": text(3).upper(), "completion": "Tech"}, "exact", 3),
        (row(4, "sports"), "prompt", 4),
        ({"prompt": "Seen: " + text(5) + " " + text(99), "completion": "x"}, "overlap", 5),
        ({"prompt": text(50, 10) + " " + " ".join(text(6).split()[:30]), "completion": "x"}, "overlap", 6),
        ({"prompt": text(7).replace("ban", "bon", 2).replace("rel", "ril", 1), "completion": "tech"}, "near", 7),
    ],
)
def test_each_kind_of_leak_is_named(tmp_path: Path, leak: dict[str, Any], how: str, of: int) -> None:
    clean = [row(seed) for seed in range(100, 110)]
    out = tmp_path / "out.jsonl"
    found = decontaminate([*clean[:4], leak, *clean[4:]], TEST, out)
    (only,) = found.leaks
    assert (only.train, only.test) == ("rows row 5", f"rows row {of + 1}")
    assert only.how == how or (how == "near" and only.how == "overlap")
    assert [json.loads(line) for line in out.read_text().splitlines()] == clean
    assert found.leaked == 1 and (found.train_rows, found.test_rows) == (11, 20)


def test_a_part_that_is_too_small_is_none() -> None:
    some = {"prompt": text(60, 30) + " " + " ".join(text(6).split()[:16]), "completion": "x"}
    assert decontaminate([some], TEST, near=None).leaks == []
    (leak,) = decontaminate([some], TEST, share=0.1, near=None).leaks
    assert leak.how == "overlap" and 0.1 < leak.share < 0.2  # 4 of 29 runs


def test_the_wording_of_the_task_is_no_leak() -> None:
    train = [row(seed, before=TASK) for seed in range(100, 130)]
    test = [row(seed, before=TASK) for seed in range(20)]
    assert decontaminate(train, test).leaks == []
    assert decontaminate([*train, row(3, "x", TASK)], test).leaks[0].how == "prompt"  # the control


def test_short_rows_leak_as_a_whole_or_not_at_all() -> None:
    test = [{"text": "the cat sat on the old mat"}, {"text": "yes it is"}]
    train = [{"text": "yes it is indeed"}, {"text": "so the cat sat on the old mat and slept for an hour or more"}]
    (leak,) = decontaminate(train, test).leaks
    assert (leak.train, leak.test, leak.how) == ("rows row 2", "rows row 1", "overlap")


def test_a_near_copy_needs_the_likeness() -> None:
    copy = {"prompt": " ".join(word + "s" if n % 6 == 0 else word for n, word in enumerate(text(7).split()))}
    train = [{**copy, "completion": "tech"}]
    (leak,) = decontaminate(train, TEST, near=0.6).leaks
    assert leak.how == "near" and 0.6 <= leak.share < 0.9
    assert decontaminate(train, TEST, near=None).leaks == []
    assert decontaminate(train, TEST, near=0.95).leaks == []


def test_the_report_and_what_is_refused() -> None:
    found = decontaminate(TEST, TEST)
    assert found.to_dict()["by"] == {"exact": 20} and found.leaked == 20
    assert "20 of 20 rows give away 20 of 20" in found.text() and "... and 10 more" in found.text()
    with pytest.raises(UsageError, match="Overlap is runs"):
        decontaminate(TEST, TEST, run=0)
