"""Repeated rows: exact ones by what they say, near ones by a likeness that is counted another way here."""

from __future__ import annotations

import json
import random
from itertools import combinations
from pathlib import Path

import pytest

from groundup.core.errors import UsageError
from groundup.data.duplicates import Near, dedupe, likeness
from groundup.data.rows import read

WORDS = [
    "river",
    "stone",
    "light",
    "paper",
    "winter",
    "garden",
    "engine",
    "silver",
    "market",
    "window",
    "letter",
    "bridge",
    "forest",
    "copper",
    "harbour",
]


def sentence(draw: random.Random, words: int = 25) -> str:
    return " ".join(draw.choice(WORDS) + str(draw.randrange(50)) for _ in range(words))


def jaccard(one: str, other: str) -> float:
    """Written out by hand, and not as the package does it."""
    sets = []
    for text in (one, other):
        runs = []
        for start in range(len(text)):
            if len(text[start : start + 5]) == 5:
                runs.append(text[start : start + 5])
        sets.append(set(runs))
    return len(sets[0].intersection(sets[1])) / len(sets[0].union(sets[1]))


def test_the_first_of_each_is_kept_and_every_other_one_names_it(tmp_path: Path) -> None:
    path, out = tmp_path / "a.jsonl", tmp_path / "out.jsonl"
    rows = [
        {"prompt": "Is it so?", "completion": "Yes", "id": 1},
        {"prompt": "is  IT so?", "completion": "yes", "id": 2},
        {"prompt": "Something else", "completion": "Yes", "id": 3},
        {"prompt": "Is it so?", "completion": "No", "id": 4},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = dedupe(path, out, near=None)
    assert (found.rows, found.kept, found.count("exact"), found.count("near")) == (4, 3, 1, 0)
    assert [str(repeat) for repeat in found.repeats] == ["a.jsonl line 2 says the same as a.jsonl line 1"]
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == [1, 3, 4]  # records as they were
    asked = dedupe(path, near=None, by="prompt")
    assert [(repeat.row[-1], repeat.other_answer) for repeat in asked.repeats] == [("2", False), ("4", True)]
    assert "1 of these answer differently" in asked.text()
    assert json.loads(json.dumps(found.to_dict()))["exact"] == 1
    with pytest.raises(UsageError, match=r"line 1 has no field 'nonsense'. Its fields: prompt, completion, id"):
        dedupe(path, by="nonsense")


def test_likeness_is_jaccard_s() -> None:
    draw = random.Random(0)
    for _ in range(50):
        one = sentence(draw, 8)
        other = one[: draw.randrange(len(one))] + sentence(draw, 3)
        assert likeness(one, other) == pytest.approx(jaccard(one, other))
    assert likeness("ab", "ab") == 1 and likeness("ab", "cd") == 0


def test_near_duplicates_are_those_that_comparing_every_pair_finds() -> None:
    draw = random.Random(1)
    texts = []
    for _ in range(60):
        text = sentence(draw)
        texts.append(text)
        if draw.random() < 0.5:  # a copy with some letters changed: from much to hardly alike
            letters = list(text)
            for _ in range(draw.randrange(1, 25)):
                letters[draw.randrange(len(letters))] = draw.choice("xyz")
            texts.append("".join(letters))
    pairs = {(a, b): jaccard(texts[a], texts[b]) for a, b in combinations(range(len(texts)), 2)}
    assert 10 < sum(like >= 0.7 for like in pairs.values()) < 30 and any(0.3 < like < 0.65 for like in pairs.values())
    found = dedupe([{"text": text} for text in texts], near=0.7)
    got = {(int(r.of.split()[-1]) - 1, int(r.row.split()[-1]) - 1): r.likeness for r in found.repeats}
    for pair, like in got.items():  # never one that is not: likeness is counted, not estimated
        assert like == pytest.approx(pairs[pair], abs=1e-4) and like >= 0.7
    sure = {pair for pair, like in pairs.items() if like >= 0.78}
    assert sure <= got.keys()  # hashing may miss a few at the very edge only
    assert found == dedupe([{"text": text} for text in texts], near=0.7)


def test_an_unlike_text_is_not_near_however_common_its_words() -> None:
    near = Near(0.8)
    near.add("a", "the cat sat on the mat and looked at the dog")
    assert near.find("the dog sat on the cat and looked at the mat") is None
    assert near.find("the cat sat on the mat and looked at the dogs").key == "a"  # type: ignore[union-attr]
    for wrong in (0.2, 1.0):
        with pytest.raises(UsageError, match="likeness"):
            Near(wrong)


def test_a_bad_row_stops_it_and_nothing_is_written(tmp_path: Path) -> None:
    path, out = tmp_path / "a.jsonl", tmp_path / "out.jsonl"
    path.write_text('{"text": "a"}\n{"text": ""}\n')
    with pytest.raises(UsageError, match="line 2, text: is empty"):
        dedupe(path, out)
    assert not out.exists() and [file.name for file in tmp_path.iterdir()] == ["a.jsonl"]


def test_calls_of_tools_are_part_of_what_is_said() -> None:
    def row(city: str) -> dict[str, object]:
        call = {"function": {"name": "weather", "arguments": {"city": city}}}
        messages = [{"role": "user", "content": "Look."}, {"role": "assistant", "content": "", "tool_calls": [call]}]
        return {"messages": messages}

    assert dedupe([row("Rome"), row("Oslo"), row("Rome")], near=None).kept == 2
    assert len(read([row("Rome")])) == 1
