"""`groundup data dedupe|filter|decontaminate`: rows that should not be learned from, and why each is one of them."""

from __future__ import annotations

from pathlib import Path

from groundup.cli.data_rows import counting, rows_of
from groundup.cli.options import Common, Machine, Which, open_model
from groundup.cli.output import result
from groundup.core.errors import UsageError


def dedupe(
    file: Path,
    /,
    *,
    out: Path | None = None,
    near: float = 0.8,
    exact: bool = False,
    by: str | None = None,
    common: Common = Common(),
) -> None:
    """Find rows that say the same or nearly the same; keep the first of each.

    Parameters
    ----------
    file
        A file of rows, a folder with train.jsonl in it, or a data starter's name.
    out
        Write the rows that are kept to this new file (.jsonl, .jsonl.gz). Left out: only say which repeat.
    near
        The likeness from which two rows are nearly the same, 0.5 to 1: shared runs of five characters among all.
    exact
        Look only for rows that are the same but for case and white space.
    by
        Compare this field alone (prompt, completion, or one of the record), not all that a row says.
    """
    from groundup.data.duplicates import dedupe

    with counting() as tell:
        found = dedupe(rows_of(file), out, near=None if exact else near, by=by, on_progress=tell)
    result(found.to_dict(), found.text(), as_json=common.json)


def filter(
    file: Path,
    /,
    *,
    out: Path | None = None,
    c4: bool = False,
    sentences: int = 3,
    words_a_line: int = 5,
    bad_words: Path | None = None,
    score: str | None = None,
    least: float | None = None,
    most: float | None = None,
    best: float | None = None,
    low: bool = False,
    model: str | None = None,
    which: Which = Which(),
    machine: Machine = Machine(),
    common: Common = Common(),
) -> None:
    """Keep the rows that pass the rules of C4, or those with a good score; say how many each rule removed.

    Parameters
    ----------
    file
        A file of rows, a folder with train.jsonl in it, or a data starter's name.
    out
        Write the rows that are kept to this new file (.jsonl, .jsonl.gz). Left out: only say what would go.
    c4
        The rules by which C4 was made: lines end as sentences do, no code, no lorem ipsum ... (see docs/data.md).
    sentences
        With --c4: a text keeps at least so many.
    words_a_line
        With --c4: a line has at least so many.
    bad_words
        With --c4: a file of words, one a line; a text with one of them goes.
    score
        words, answer-words, letters, variety, repetition, perplexity (needs --model) or column:FIELD.
    least
        Keep rows from this score on.
    most
        Keep rows up to this score.
    best
        Keep this share of the rows, those with the best scores: 0.2 is a fifth.
    low
        Of a column, the lower numbers are the better ones.
    model
        The model whose perplexity is the score.
    """
    from groundup.data import filters
    from groundup.data.c4 import C4
    from groundup.data.scores import scorer

    if c4 == (score is not None):
        raise UsageError("give --c4 or --score NAME, one of the two")
    numbers = [f"--{name}" for name, value in (("least", least), ("most", most), ("best", best)) if value is not None]
    if c4:
        if numbers or low or model is not None:
            raise UsageError(f"{', '.join(numbers) or '--low and --model'} go with --score, not with --c4")
        bad = bad_words.read_text(encoding="utf-8").splitlines() if bad_words is not None else ()
        with counting() as tell:
            rules = C4(sentences=sentences, words_a_line=words_a_line, words=bad)
            found = filters.by_rules(rows_of(file), out, rules=rules, on_progress=tell)
    else:
        if bad_words is not None or (sentences, words_a_line) != (3, 5):
            raise UsageError("--bad-words, --sentences and --words-a-line go with --c4, not with --score")
        if score != "perplexity" and model is not None:
            raise UsageError(f"--model goes with --score perplexity; {score} needs none")
        opened = open_model(model, which, machine) if model is not None else None
        chosen = scorer(str(score), opened, low=True if low else None)
        with counting() as tell:
            found = filters.by_score(
                rows_of(file), out, scorer=chosen, least=least, most=most, best=best, on_progress=tell
            )
    result(found.to_dict(), found.text(), as_json=common.json)


def decontaminate(
    train: Path,
    test: Path,
    /,
    *,
    out: Path | None = None,
    run: int = 13,
    share: float = 0.5,
    near: float = 0.8,
    overlap_only: bool = False,
    common: Common = Common(),
) -> int:
    """Find training rows that give away test rows; exit code 1 where there are some and no --out to write the rest to.

    Parameters
    ----------
    train
        The rows to train on: a file, a folder with train.jsonl in it, or a data starter's name.
    test
        The rows to test with: a file, a folder with test.jsonl in it, or a data starter's name.
    out
        Write the training rows that give nothing away to this new file (.jsonl, .jsonl.gz).
    run
        How many words must stand together in both to count as overlap.
    share
        The least share of a test row's runs that a training row must hold.
    near
        The likeness from which two rows are nearly the same, 0.5 to 1.
    overlap_only
        Leave nearly the same rows out (and do without datasketch).
    """
    from groundup.data.leakage import decontaminate

    with counting() as tell:
        found = decontaminate(
            rows_of(train),
            rows_of(test, "test"),
            out,
            run=run,
            share=share,
            near=None if overlap_only else near,
            on_progress=tell,
        )
    result(found.to_dict(), found.text(), as_json=common.json)
    return 1 if found.leaks and out is None else 0
