"""The two baselines: the commonest class, and words."""

import pytest

from groundup.core.errors import UsageError
from groundup.evaluation.baselines import majority, tfidf
from groundup.evaluation.metrics import accuracy


def test_majority_is_the_commonest_label() -> None:
    assert majority(["b", "a", "c", "a"], 3) == ["a", "a", "a"]
    assert majority(["b", "a"], 1) == ["a"]
    with pytest.raises(UsageError, match="at least one"):
        majority([], 2)


def test_words_tell_the_classes_apart() -> None:
    tech = [f"the new phone {word} has a chip" for word in ("one", "two", "three", "four", "five")]
    sport = [f"the striker {word} scored a goal" for word in ("one", "two", "three", "four", "five")]
    answers = tfidf(
        [*tech, *sport], ["tech"] * 5 + ["sport"] * 5, ["a goal late", "a faster chip", "a late goal again"]
    )
    assert answers == ["sport", "tech", "sport"]
    assert accuracy(answers, ["sport", "tech", "tech"]).value == pytest.approx(2 / 3)


def test_the_same_rows_give_the_same_answers() -> None:
    texts, labels = ["red green", "green blue", "blue red", "red red"], ["a", "b", "b", "a"]
    assert tfidf(texts, labels, texts) == tfidf(texts, labels, texts)


def test_edges() -> None:
    assert tfidf(["x"], ["only"], ["y", "z"]) == ["only", "only"]
    assert tfidf(["x", "y"], ["a", "b"], []) == []
    with pytest.raises(UsageError, match="2 training texts for 1 labels"):
        tfidf(["x", "y"], ["a"], ["z"])
