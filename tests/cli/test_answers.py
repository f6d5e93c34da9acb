"""Answers to a file of prompts survive whatever happens in between."""

import json
from pathlib import Path

import pytest

from groundup.cli.answers import Answers
from groundup.core.errors import GroundupError, UsageError

JOB = {"model": "m", "adapter": None, "seed": 3, "stop": ("a",)}
ROWS = [{"text": f"prompt {i}"} for i in range(5)]


def answer(out: Path, indices: list[int]) -> None:
    with Answers(out, JOB) as answers:
        for index in indices:
            answers.add(index, f"answer\n{index} é")


def test_all_at_once(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out.jsonl"
    with Answers(out, JOB) as answers:
        for index in (3, 1, 0, 4, 2):
            answers.add(index, f"a{index}")
        assert not out.exists()
        answers.finish(ROWS)
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert lines == [{"text": f"prompt {i}", "answer": f"a{i}"} for i in range(5)]
    assert list(out.parent.iterdir()) == [out]


def test_a_killed_job_goes_on_at_every_byte(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    answer(out, [2, 0, 4])
    part = tmp_path / "out.jsonl.part"
    whole = part.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    for cut in range(ends[0], len(whole) + 1):
        part.write_bytes(whole[:cut])
        kept = [2, 0, 4][: sum(end <= cut for end in ends) - 1]
        with Answers(out, JOB) as answers:
            assert list(answers.done) == kept
            for index in range(5):
                if index not in answers.done:
                    answers.add(index, f"answer\n{index} é")
            answers.finish(ROWS)
        assert [json.loads(line)["answer"] for line in out.read_text(encoding="utf-8").splitlines()] == [
            f"answer\n{index} é" for index in range(5)
        ]
        out.unlink()


def test_another_job_does_not_go_on(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    answer(out, [1])
    with pytest.raises(UsageError, match=r"another job \(seed differ"), Answers(out, JOB | {"seed": 4}):
        pass
    with Answers(out, JOB) as answers:
        assert answers.done == {1: "answer\n1 é"}


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\n", b'{"model"'])
def test_a_part_that_is_none(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl.part").write_bytes(data)
    with pytest.raises(GroundupError, match="is no part of a job"), Answers(tmp_path / "out.jsonl", JOB):
        pass


def test_what_is_there_is_not_overwritten_and_what_is_missing_is_said(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with Answers(out, JOB) as answers:
        answers.add(0, "x")
        with pytest.raises(GroundupError, match="4 of 5 rows have no answer, the first is row 2"):
            answers.finish(ROWS)
    assert not out.exists()
    out.write_text("mine")
    with pytest.raises(UsageError, match="not overwritten"), Answers(out, JOB):
        pass
    assert out.read_text() == "mine"
