"""Counts of a file, against counts by hand; and how hard its labels are to tell."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from groundup.core.errors import UsageError
from groundup.data.check import Cost, check
from groundup.data.encode import encode
from groundup.data.rows import Stream
from groundup.data.summary import stats
from groundup.evaluation.baselines import difficulty, packed_neighbours
from groundup.inputs.tokenizer import Tokenizer

ROWS = [
    {"prompt": "It is good", "completion": "positive"},
    {"prompt": "It is  GOOD", "completion": "positive"},
    {"prompt": "It is good", "completion": "negative"},
    {"prompt": "Bad\rthing &amp; worse", "completion": "negative"},
    {"prompt": "Caf\x8e", "completion": "neutral"},
]


def test_a_file_is_counted(chatty: Tokenizer) -> None:
    found = stats(ROWS, chatty)
    assert (found.rows, found.bad, found.kinds) == (5, 0, {"prompt-completion": 5})
    assert found.labels == {"positive": 2, "negative": 2, "neutral": 1}
    assert (found.repeated, found.folded) == (1, 2)
    assert found.two_labels == [["rows row 1", "rows row 3"]] and found.two_labels_folded == 1
    assert found.odd == {"a carriage return inside": 1, "HTML entities": 1, "control characters": 1}
    assert found.words.total == sum(len(f"{row['prompt']} {row['completion']}".split()) for row in ROWS)
    assert found.characters.longest == len("Bad\rthing &amp; worse\nnegative")
    assert found.answer_words == type(found.words)(1, 1.0, 1, 5)
    assert found.tokens and found.tokens.total == sum(len(encode(row, chatty).ids) for row in ROWS)
    said = found.text()
    assert "1 rows repeat a text, 2 but for case" in said and "1 texts have two labels" in said
    assert json.loads(json.dumps(found.to_dict()))["repeated"] == 1


def test_where_labels_come_from() -> None:
    assert stats([{"text": "a", "label": 1}, {"text": "b", "label": 0}]).labels == {"1": 1, "0": 1}
    answers = [{"prompt": "a", "completion": '{"desk": "tech"}'}, {"prompt": "b", "completion": '{"desk": "sport"}'}]
    assert stats(answers, label_field="desk").labels == {"tech": 1, "sport": 1}
    topics = [{"text": "a", "topic": "x"}, {"text": "b", "topic": "y"}]
    assert stats(topics, label_field="topic").labels == {"x": 1, "y": 1} and stats(topics).labels == {}
    with pytest.raises(UsageError, match="No row has the label 'desk'"):
        stats(topics, label_field="desk")
    essay = [
        {"prompt": f"q{i}", "completion": f"An answer of many words, so that it is no label, number {i}"} for i in "ab"
    ]
    assert stats(essay).labels == {}


def test_bad_rows_are_counted_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{nonsense}\n')
    found = stats(path)
    assert (found.rows, found.bad) == (1, 1) and "1 bad rows more: groundup data check" in found.text()
    path.write_text("{nonsense}\n")
    with pytest.raises(UsageError, match="no good row"):
        stats(path)


def test_check_tells_of_two_answers_and_odd_letters_without_calling_them_wrong() -> None:
    found = check(ROWS)
    assert found.ok and found.conflicts == [["rows row 1", "rows row 3"]]
    assert found.duplicates == [["rows row 1", "rows row 2"]]
    assert found.odd["a carriage return inside"] == ["rows row 4"]
    assert "1 questions stand with different answers, for example rows row 1, rows row 3" in found.text()
    assert "1 rows hold HTML entities, for example rows row 4" in found.text()


@pytest.mark.parametrize(("rows", "epochs"), [(1, 25), (10, 10), (33, 3), (34, 3), (8333, 3), (8334, 2), (30_000, 1)])
def test_epochs_are_those_of_openai_s_guide(rows: int, epochs: int) -> None:
    # the guide's own words: TARGET_EPOCHS 3, examples between 100 and 25,000, epochs between 1 and 25
    wanted = 3
    if rows * 3 < 100:
        wanted = min(25, 100 // rows)
    elif rows * 3 > 25000:
        wanted = max(1, 25000 // rows)
    assert Cost.of([10] * rows).epochs == wanted == epochs


def test_what_a_chat_would_cost(tmp_path: Path, chatty: Tokenizer) -> None:
    path = tmp_path / "chat.jsonl"
    chat = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}
    path.write_text((json.dumps(chat) + "\n") * 50)
    found = check(path, chatty, price=8.0)
    assert found.cost and found.tokens and (found.cost.epochs, found.cost.tokens) == (3, 3 * found.tokens.total)
    assert f"at 8 a million: {3 * found.tokens.total * 8 / 1e6:.2f}" in found.text()
    cut = check(path, chatty, max_tokens=5)
    assert cut.cost and cut.cost.tokens == 3 * 50 * 5
    assert check([{"text": "a"}], chatty).cost is None
    path.write_text(json.dumps({"messages": [{"role": "bot", "content": "Ho"}]}) + "\n")
    assert "chat.jsonl line 1, messages[0].role: is 'bot'. Known roles" in check(path, chatty).text()


def sentences(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    draw = random.Random(seed)
    words = {
        "sport": ["goal", "match", "striker", "league", "cup"],
        "tech": ["chip", "phone", "software", "code", "screen"],
    }
    labels = [draw.choice(["sport", "tech"]) for _ in range(count)]
    return [" ".join(draw.choices([*words[label], "the", "a", "with"], k=9)) for label in labels], labels


def test_neighbours_by_gzip_are_scikit_learn_s() -> None:
    texts, labels = sentences(60)
    unseen, _ = sentences(20, seed=1)

    def size(text: str) -> int:
        return len(gzip.compress(text.encode()))

    def ncd(x: str, y: str) -> float:
        return (size(f"{x} {y}") - min(size(x), size(y))) / max(size(x), size(y))

    distances = np.array([[ncd(x, y) for y in texts] for x in unseen])
    for k in (1, 2, 3):
        found = packed_neighbours(texts, labels, unseen, k=k)
        for row, tied in zip(distances, found, strict=True):
            nearest = np.argsort(row, kind="stable")[:k]
            near = [labels[at] for at in nearest]
            assert set(tied) == {label for label in near if near.count(label) == max(map(near.count, near))}
            assert tied[0] == next(label for label in near if label in tied)
        if k == 1:
            model = KNeighborsClassifier(1, metric="precomputed").fit(np.zeros((60, 60)), labels)
            distinct = [len(set(row[row == row.min()])) == (row == row.min()).sum() for row in distances]
            assert all(
                tied == [said]
                for tied, said, sure in zip(found, model.predict(distances), distinct, strict=True)
                if sure
            )


def test_the_optimistic_score_is_the_kinder_one() -> None:
    texts, labels = sentences(120)
    draw = random.Random(3)
    labels = [label if draw.random() < 0.7 else draw.choice(["sport", "tech"]) for label in labels]
    items = list(Stream([{"prompt": t, "completion": y} for t, y in zip(texts, labels, strict=True)]).good())
    found = difficulty(items)
    assert found and found.labels == 2 and found.train + found.test == 120 and found.test >= 24
    assert found.majority < found.tfidf and found.packed < found.packed_optimistic
    assert "too kind" in found.text() and found.to_dict()["labels"] == 2
    assert difficulty(items) == found


def test_where_there_are_no_labels_there_is_no_task() -> None:
    rows = [{"prompt": f"q{i}", "completion": f"a{i}"} for i in range(40)]
    assert difficulty(list(Stream(rows).good())) is None
    assert difficulty(list(Stream([{"text": f"t{i}"} for i in range(40)]).good())) is None
    assert difficulty(list(Stream([{"prompt": f"q{i}", "completion": "x"} for i in range(40)]).good())) is None
