"""Parts that give nothing of each other away, drawn by what the rows say."""

from __future__ import annotations

import functools
import json
import operator
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.errors import UsageError
from groundup.data.parts import divide, divide_file
from groundup.data.rows import Item, Stream, read


def items(rows: list[dict[str, Any]]) -> list[Item]:
    return list(Stream(rows).good())


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2), st.integers(0, 12)), min_size=3, max_size=60))
def test_no_question_and_no_group_is_in_two_parts(drawn: list[tuple[int, int, int]]) -> None:
    rows = [{"prompt": f"Question {q}", "completion": f"a{a}", "by": f"author {g}"} for q, a, g in drawn]
    for by in (None, "by"):
        try:
            parts = divide(items(rows), validation=0.2, test=2, by=by)
        except UsageError:
            continue
        assert sorted(functools.reduce(operator.iadd, parts.values(), [])) == list(range(len(rows)))
        assert len(parts["test"]) >= 2 and len(parts["validation"]) >= round(0.2 * len(rows)) and parts["train"]
        for field in ("prompt", *([by] if by else [])):
            values = [{rows[at][field] for at in part} for part in parts.values()]
            assert not (values[0] & values[1] | values[0] & values[2] | values[1] & values[2])


def test_the_parts_do_not_depend_on_the_order_of_the_rows() -> None:
    rows = [{"text": f"row {i}", "topic": str(i % 9)} for i in range(200)]
    mixed = random.Random(0).sample(rows, len(rows))
    for by in (None, "topic"):
        one, other = (
            {part: {each[at]["text"] for at in found} for part, found in divide(items(each), test=0.3, by=by).items()}
            for each in (rows, mixed)
        )
        assert one == other
    assert divide(items(rows), test=20)["test"] != divide(items(rows), test=20, seed=1)["test"]
    assert len(divide(items(rows), test=20)["test"]) == 20  # rows of their own: exactly as asked


def test_case_and_white_space_make_no_other_row() -> None:
    rows = [{"prompt": text, "completion": str(i)} for i, text in enumerate(["Hello  you", "hello you\n", "x", "y"])]
    for seed in range(20):
        parts = divide(items(rows), test=1, seed=seed)
        assert ({0, 1} <= set(parts["test"])) or not ({0, 1} & set(parts["test"]))


def test_the_files(tmp_path: Path) -> None:
    path, out = tmp_path / "a.jsonl", tmp_path / "parts"
    path.write_text("".join(json.dumps({"text": f"row {i}", "id": i}) + "\n" for i in range(50)))
    found = divide_file(path, out, validation=5, test=0.2)
    assert found.rows == {"train": 35, "validation": 5, "test": 10} and found.groups == 50
    ids = [json.loads(line)["id"] for file in sorted(out.iterdir()) for line in file.read_text().splitlines()]
    assert sorted(ids) == list(range(50))
    assert len(read(out)) == 35 and len(read(out, part="validation")) == 5 and len(read(out, part="test")) == 10
    with pytest.raises(UsageError, match="exists already"):
        divide_file(path, out)
    assert not (tmp_path / "no").exists()


def test_what_leaves_nothing_to_train_is_refused() -> None:
    rows = items([{"text": f"row {i}"} for i in range(4)])
    with pytest.raises(UsageError, match="leave nothing to train"):
        divide(rows, test=3, validation=1)
    for wrong in (-0.1, 1.5):
        with pytest.raises(UsageError, match="share below 1"):
            divide(rows, test=wrong)
