"""`groundup data`: look at rows before they are trained on, clean them, and make files of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cyclopts import App

from groundup.cli import data_cleaning, data_making
from groundup.cli.data_rows import counting, rows_of, tokenizer_of
from groundup.cli.options import Common
from groundup.cli.output import result
from groundup.core.errors import UsageError

app = App(
    help="Look at rows of data before they are trained on, clean them, and make files of them.\n\n"
    "A FILE is a json, jsonl, csv, tsv, parquet or txt file (.gz and .zst may follow), a folder, or a data starter's "
    "name (`groundup list`).",
    help_epilogue="Example:\n  groundup data check train.jsonl --model smollm2-135m-instruct",
    help_format="plaintext",
)


@app.command(
    help_epilogue="Example:\n  groundup data check train.jsonl --model smollm2-135m-instruct --max-tokens 1024"
)
def check(
    file: Path,
    /,
    *,
    model: str | None = None,
    max_tokens: int | None = None,
    price: float | None = None,
    revision: str | None = None,
    common: Common = Common(),
) -> int:
    """Read all rows, say what they are and all that is wrong with them; exit code 1 where something is.

    Parameters
    ----------
    file
        A file of rows, a folder with train.jsonl in it, or a data starter's name.
    model
        Count tokens as this model's tokenizer does.
    max_tokens
        Name the rows that are longer; needs --model.
    price
        What a million tokens cost to train on, for an estimate; needs --model.
    revision
        The branch, tag or commit of --model, if it comes from the hub.
    """
    from groundup.data import check as checking

    for name, value in (("max-tokens", max_tokens), ("price", price)):
        if value is not None and model is None:
            raise UsageError(f"--{name} needs --model, whose tokenizer counts the tokens")
    tokenizer = tokenizer_of(model, revision) if model is not None else None
    found = checking.check(rows_of(file), tokenizer, max_tokens=max_tokens, price=price)
    result(found.to_dict(), found.text(), as_json=common.json)
    return 0 if found.ok else 1


@app.command(
    name="show-mask", help_epilogue="Example:\n  groundup data show-mask train.jsonl --model smollm2-135m-instruct"
)
def show_mask(
    file: Path,
    /,
    *,
    model: str,
    row: int = 1,
    tokens: bool = False,
    revision: str | None = None,
    common: Common = Common(),
) -> None:
    """Show which tokens of a row are trained and which are only read.

    Parameters
    ----------
    file
        A file of rows.
    model
        The model whose tokenizer and chat template are used.
    row
        Which row, counted from 1.
    tokens
        One token a line.
    revision
        The branch, tag or commit of --model, if it comes from the hub.
    """
    from groundup.data import check as checking
    from groundup.data.rows import read

    rows = read(rows_of(file))
    if not 1 <= row <= len(rows):
        raise UsageError(f"{file} has rows 1 to {len(rows)}, not {row}")
    segments = checking.show_mask(rows[row - 1], tokenizer_of(model, revision))
    result(
        {"row": row, "segments": [segment._asdict() for segment in segments]},
        checking.render_mask(segments, tokens=tokens),
        as_json=common.json,
    )


@app.command(help_epilogue="Example:\n  groundup data stats tweets")
def stats(
    file: Path,
    /,
    *,
    label: str | None = None,
    model: str | None = None,
    no_baseline: bool = False,
    seed: int = 0,
    revision: str | None = None,
    common: Common = Common(),
) -> None:
    """Count a file: rows, lengths, labels, repeated rows, texts with two labels; and how hard its labels are to tell.

    Parameters
    ----------
    file
        A file of rows, a folder with train.jsonl in it, or a data starter's name.
    label
        The field with the label, of the row or of the JSON that it answers. Left out: "label", or short answers.
    model
        Count tokens as this model's tokenizer does.
    no_baseline
        Leave out what simple methods reach on a held-out fifth (it takes some seconds and scikit-learn).
    seed
        Which rows are held out for that.
    revision
        The branch, tag or commit of --model, if it comes from the hub.
    """
    from groundup.data.rows import Item, Stream
    from groundup.data.summary import stats

    path = rows_of(file)
    tokenizer = tokenizer_of(model, revision) if model is not None else None
    with counting() as tell:
        found = stats(path, tokenizer, label_field=label, on_progress=tell)
    hard = None
    if found.labels and not no_baseline:
        from groundup.evaluation.baselines import difficulty

        items = [item for item in Stream(path) if isinstance(item, Item)]
        with counting("held-out row") as tell:
            hard = difficulty(items, label_field=label, seed=seed, on_progress=tell)
    text = "\n\n".join([found.text(), *([hard.text()] if hard else [])])
    result({**found.to_dict(), "baseline": hard and hard.to_dict()}, text, as_json=common.json)


_MORE: dict[Callable[..., object], str] = {
    data_cleaning.dedupe: "groundup data dedupe tweets --near 0.9 --out distinct.jsonl",
    data_cleaning.filter: "groundup data filter pages.jsonl.gz --c4 --out clean.jsonl.gz",
    data_cleaning.decontaminate: "groundup data decontaminate train.jsonl test.jsonl --out clean.jsonl",
    data_making.split: "groundup data split tweets --validation 0.1 --test 500 --out parts",
    data_making.mix: "groundup data mix tweets=3 reviews=1 --rows 2000 --out mixed.jsonl",
    data_making.shots: "groundup data shots reviews reviews --k 4 --out four.jsonl",
    data_making.arithmetic: "groundup data arithmetic --tasks add,multiply --digits 3 --out sums.jsonl",
}
for _verb, _example in _MORE.items():
    app.command(_verb, help_epilogue=f"Example:\n  {_example}")
