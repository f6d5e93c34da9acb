"""Mixtures: shares as weighed, the same for the same seed, continued at any place, and nothing left out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from scipy.stats import binomtest

from groundup.core.errors import UsageError
from groundup.data.mixture import Mixture, mix


def write(path: Path, count: int, kind: str = "text") -> Path:
    name = path.stem
    rows = [
        {"text": f"{name}{i}"} if kind == "text" else {"prompt": f"{name}{i}", "completion": "x"} for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return write(tmp_path / "a.jsonl", 30), write(tmp_path / "b.jsonl", 7)


def texts(mixture: Mixture, place: int, count: int) -> list[str]:
    return [taken.item.row["text"] for taken in islice(mixture.after(place), count)]


def test_shares_are_as_weighed(files: tuple[Path, Path]) -> None:
    a, b = files
    drawn = Counter(taken.source for taken in islice(Mixture({a: 3, b: 1}).after(), 4000))
    assert binomtest(drawn[str(a)], 4000, 0.75).pvalue > 1e-3
    assert binomtest(drawn[str(a)], 4000, 0.70).pvalue < 1e-6  # the control: the test can tell


@pytest.mark.parametrize("shuffle", [True, False])
def test_any_place_can_be_continued(files: tuple[Path, Path], shuffle: bool) -> None:
    a, b = files

    def fresh(seed: int = 5) -> Mixture:
        return Mixture({a: 2, b: 1}, seed=seed, shuffle=shuffle)

    whole = texts(fresh(), 0, 5000)
    for place in (1, 17, 100, 4095, 4096, 4990):
        assert texts(fresh(), place, 10) == whole[place : place + 10]
    assert texts(fresh(), 0, 5000) == whole != texts(fresh(6), 0, 5000)


@pytest.mark.parametrize("shuffle", [True, False])
def test_each_turn_has_every_row_once(files: tuple[Path, Path], shuffle: bool) -> None:
    a, b = files
    turns: dict[tuple[str, int], list[str]] = {}
    for taken in islice(Mixture({a: 1, b: 1}, shuffle=shuffle).after(), 400):
        turns.setdefault((Path(taken.source).stem, taken.turn), []).append(taken.item.row["text"])
    assert sorted(turns["b", 0]) == [f"b{i}" for i in range(7)] and sorted(turns["a", 1]) == sorted(turns["a", 0])
    assert (turns["a", 0] == [f"a{i}" for i in range(30)]) == (not shuffle)
    assert (turns["b", 0] == turns["b", 1]) == (not shuffle)


def test_a_streamed_source_is_not_read_ahead(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from groundup.data import rows

    read = list[int]()
    real = rows.formats.records

    def counted(path: Path) -> Iterator[object]:
        for found in real(path):
            read.append(1)
            yield found

    monkeypatch.setattr(rows.formats, "records", counted)
    assert len(texts(Mixture({files[0]: 1}, shuffle=False), 0, 3)) == 3
    assert len(read) == 3


def test_the_file_ends_where_one_would_begin_again(files: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = files
    found = mix({a: 1, b: 1}, tmp_path / "out.jsonl")
    lines = [json.loads(line)["text"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(lines) == len(set(lines)) == found.rows == found.place and found.taken[str(b)] == 7
    with pytest.raises(UsageError, match="Say how many rows"):
        mix({a: 1, b: 1}, after=found.place)
    more = mix({a: 1, b: 1}, tmp_path / "more.jsonl", after=found.place, rows=50)
    assert more.place == found.place + 50 and max(more.turns.values()) > 1


def test_meta_and_kinds(tmp_path: Path) -> None:
    text, prompts = write(tmp_path / "a.jsonl", 5), write(tmp_path / "b.jsonl", 5, "prompt")
    chats = tmp_path / "c.jsonl"
    chats.write_text(
        json.dumps({"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]}) + "\n"
    )
    mix({text: 1}, tmp_path / "meta.jsonl", rows=3, meta=True)
    first = json.loads((tmp_path / "meta.jsonl").read_text().splitlines()[0])
    assert first["meta"] == {"pile_set_name": str(text)}
    assert mix({prompts: 1, chats: 1}, tmp_path / "chats.jsonl", rows=8).kind == "messages"
    rows = [json.loads(line) for line in (tmp_path / "chats.jsonl").read_text().splitlines()]
    assert all(list(row) == ["messages"] and row["messages"][-1]["role"] == "assistant" for row in rows)
    with pytest.raises(UsageError, match="cannot stand in one file"):
        mix({text: 1, chats: 1}, rows=8)


def test_weights_that_are_none(files: tuple[Path, Path]) -> None:
    for weight in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="weight"):
            Mixture({files[0]: weight})
    with pytest.raises(UsageError, match="needs a file"):
        Mixture({})
    with pytest.raises(UsageError, match="no rows"):
        empty = files[0].with_name("empty.jsonl")
        empty.write_text("")
        next(Mixture({empty: 1}).after())
