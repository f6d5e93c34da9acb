"""The rules of C4 one by one, scores, and that what goes is named."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

import groundup as gu
from groundup.core.errors import UsageError
from groundup.data.c4 import C4, split
from groundup.data.filters import by_rules, by_score
from groundup.data.rows import Item, Stream
from groundup.data.scores import scorer
from groundup.inputs.tokenizer import Tokenizer

GOOD = "The river ran past the old mill. Nobody had lived there for years. A heron stood in the shallow water."


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (GOOD, ""),
        (GOOD + " {x}", "braces"),
        (GOOD + " Lorem Ipsum dolor sit amet.", "lorem"),
        ("One sentence stands here alone. And a second one as well.", "few-sentences"),
        (GOOD.replace(".", ""), "few-sentences"),
        (GOOD + " It was a Damned shame.", "bad-words"),
        (GOOD + " It was undamnedly good.", ""),
    ],
)
def test_what_takes_the_whole_text(text: str, rule: str) -> None:
    assert C4(words=["damned"]).clean(text)[1] == rule


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("Home | About | Contact us today", "no-end"),
        ("And then it went on and on ...", "no-end"),
        ("Read more here.", "few-words"),
        ("Please enable Javascript to see this page.", "javascript"),
        ("By going on you accept our terms of use.", "policy"),
        ("This site uses cookies to make you happy.", "policy"),
        ('"That is all that I know," said the miller, "and more."', ""),
    ],
)
def test_what_goes_line_by_line(line: str, rule: str) -> None:
    rules = C4()
    left, whole = rules.clean(f"{GOOD}\n{line}")
    assert whole == "" and left == (GOOD if rule else f"{GOOD}\n{line}")
    assert dict(rules.lines) == ({rule: 1} if rule else {})


def test_marks_are_cut_out_and_sentences_told_apart() -> None:
    text = GOOD.replace("mill.", "mill.[12]").replace("years.", "years.[citation needed]")
    assert C4().clean(text) == (GOOD, "")
    assert split('He said "Go!" and went. Then (at noon.) it rained? Yes') == [
        'He said "Go!"',
        "and went.",
        "Then (at noon.)",
        "it rained?",
        "Yes",
    ]


def test_a_run_of_three_sentences_is_kept_once() -> None:
    own = "Here is a text of its own. It has three good sentences. This is the last of them."
    rules = C4()
    assert rules.clean(GOOD) == (GOOD, "")
    assert rules.clean(f"{own}\n{GOOD.upper()}") == (own, "")
    assert rules.lines["repeated"] == 3
    two = ". ".join(GOOD.split(". ")[:2]) + ". But now for something new."  # two in common are no run of three
    assert rules.clean(two) == (two, "")


def test_a_file_is_filtered_with_counts_and_places(tmp_path: Path) -> None:
    path, out = tmp_path / "pages.jsonl", tmp_path / "out.jsonl.gz"
    rows = [{"text": GOOD, "url": "a"}, {"text": "Menu"}, {"text": ""}, {"text": f"{GOOD[:-1]}!\nMore ..."}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    found = by_rules(path, out)
    assert (found.rows, found.kept, found.changed) == (5, 2, 1)
    assert found.removed == {"unreadable": 2, "few-sentences": 1} and found.lines == {"no-end": 2}
    assert [removal.row for removal in found.removals] == [f"pages.jsonl line {n}" for n in (2, 3, 5)]
    kept = [item.record for item in Stream(out).good()]
    assert kept == [rows[0], {"text": f"{GOOD[:-1]}!"}]
    said = found.text()
    assert "pages.jsonl line 2: few-sentences: Menu" in said and "2 lines removed: no-end" in said
    with pytest.raises(UsageError, match=r"row 1 is a row of kind prompt-completion"):
        by_rules([{"prompt": "a", "completion": "b"}])


ROWS = [{"text": word * 3, "quality": str(value)} for word, value in zip("abcde", (3, 1, 5, 5, 2), strict=True)]


def kept(rows: Sequence[dict[str, str]], tmp_path: Path, **how: object) -> list[str]:
    out = tmp_path / "out.jsonl"
    out.unlink(missing_ok=True)
    by_score(rows, out, **how)  # type: ignore[arg-type]
    return [json.loads(line)["text"][0] for line in out.read_text().splitlines()]


def test_a_file_without_rows_is_no_text_that_was_filtered(tmp_path: Path) -> None:
    empty, out = tmp_path / "empty.jsonl", tmp_path / "out.jsonl"
    empty.write_text("")
    with pytest.raises(UsageError, match="holds no rows"):
        by_rules(empty, out)
    assert not out.exists()


def test_a_column_as_score(tmp_path: Path) -> None:
    column = scorer("column:quality")
    assert kept(ROWS, tmp_path, scorer=column, least=3) == ["a", "c", "d"]
    assert kept(ROWS, tmp_path, scorer=column, least=2, most=3) == ["a", "e"]
    assert kept(ROWS, tmp_path, scorer=column, best=0.2) == ["c"]  # of equals the first
    assert kept(ROWS, tmp_path, scorer=column, best=0.6) == ["a", "c", "d"]
    assert kept(ROWS, tmp_path, scorer=scorer("column:quality", low=True), best=0.4) == ["b", "e"]
    found = by_score(ROWS, scorer=column, best=0.6)
    assert [(removal.row, removal.why) for removal in found.removals] == [("rows row 2", "1"), ("rows row 5", "2")]
    with pytest.raises(UsageError, match="row 2, quality: is no number"):
        by_score([ROWS[0], {"text": "b", "quality": "good"}], scorer=column, least=1)


def test_heuristics_tell_good_from_bad() -> None:
    good, bad = {"text": GOOD}, {"text": "1234 $$$ buy buy buy buy buy buy buy buy buy buy buy buy 99 99 99 @@"}
    items = list(Stream([good, bad]).good())
    for name in ("letters", "variety", "repetition"):
        one = scorer(name)
        first, second = one(items)
        assert (first < second) if one.low else (first > second), name
    assert scorer("words")(items)[0] == 20


def test_the_share_is_of_the_scores_not_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n{"text": ""}\n{"text": "one two three"}\n')
    found = by_score(path, scorer=scorer("words"), best=0.5)
    assert (found.rows, found.kept) == (3, 1)
    assert [(removal.row, removal.rule) for removal in found.removals] == [
        ("a.jsonl line 1", "words"),
        ("a.jsonl line 2", "unreadable"),
    ]


def test_what_makes_no_filter_is_refused() -> None:
    with pytest.raises(UsageError, match="Say which rows to keep"):
        by_score(ROWS, scorer=scorer("words"))
    with pytest.raises(UsageError, match="Say which rows to keep"):
        by_score(ROWS, scorer=scorer("words"), least=1, best=0.5)
    with pytest.raises(UsageError, match="lies between 0 and 1"):
        by_score(ROWS, scorer=scorer("words"), best=20)
    with pytest.raises(UsageError, match="no score 'beauty'. Choose from words"):
        scorer("beauty")
    with pytest.raises(UsageError, match="Perplexity is a model's"):
        scorer("perplexity")
    with pytest.raises(UsageError, match="only of a column"):
        scorer("words", low=True)


def test_a_scorer_of_one_s_own() -> None:
    class Vowels:
        name, low = "vowels", False

        def __call__(self, items: Sequence[Item]) -> list[float]:
            return [float(sum(char in "aeiou" for char in item.row["text"])) for item in items]

    assert by_score(ROWS, scorer=Vowels(), least=1).kept == 2


def test_perplexity_is_the_model_s_own(plain: Tokenizer) -> None:
    blank = gu.build(gu.models.gpt2.Config(n_embd=16, n_layer=1, n_head=2, n_positions=24, vocab_size=260), std=0.3)
    model = gu.Model(**{**vars(blank), "tokenizer": plain})
    texts = ["abcabc", "zzz", "hello there", "and a longer one than it reads"]
    items = list(Stream([{"text": text} for text in texts]).good())
    found = scorer("perplexity", model)(items)
    for text, perplexity in zip(texts, found, strict=True):
        logits = model.logits(text[:23])  # of <s> and what it reads of the text; the end of text comes after the last
        ids = [*model.encode(text), plain.eos_id][:24]
        loss = cross_entropy(logits[: len(ids) - 1], torch.tensor(ids[1:]))
        assert math.log(perplexity) == pytest.approx(float(loss), rel=1e-5)
    best = by_score([item.record for item in items], scorer=scorer("perplexity", model), best=0.25)
    assert [removal.row for removal in best.removals] == [
        item.place for item, each in zip(items, found, strict=True) if each > min(found)
    ]
