"""`groundup data`: look at rows before they are trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App

from groundup.cli.options import Common
from groundup.cli.output import result
from groundup.core.errors import UsageError

if TYPE_CHECKING:
    from groundup.inputs.tokenizer import Tokenizer

app = App(
    help="Look at rows of data before they are trained on.",
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
    revision: str | None = None,
    common: Common = Common(),
) -> int:
    """Read all rows, say what they are and all that is wrong with them; exit code 1 where something is.

    Parameters
    ----------
    file
        A json, jsonl, csv, parquet or txt file, or a folder with train.jsonl in it.
    model
        Count tokens as this model's tokenizer does.
    max_tokens
        Name the rows that are longer; needs --model.
    revision
        The branch, tag or commit of --model, if it comes from the hub.
    """
    from groundup.data import check as checking

    if max_tokens is not None and model is None:
        raise UsageError("--max-tokens needs --model, whose tokenizer counts the tokens")
    tokenizer = _tokenizer(model, revision) if model is not None else None
    found = checking.check(file, tokenizer, max_tokens=max_tokens)
    result(found.to_dict(), found.text(), as_json=common.json)
    return 0 if found.ok else 1


def _tokenizer(model: str, revision: str | None) -> Tokenizer:
    from groundup import api

    found = api.load(model, revision=revision).tokenizer
    if found is None:
        raise UsageError(f"{model} has no tokenizer, so there are no tokens to count or show")
    return found


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

    rows = read(file)
    if not 1 <= row <= len(rows):
        raise UsageError(f"{file} has rows 1 to {len(rows)}, not {row}")
    segments = checking.show_mask(rows[row - 1], _tokenizer(model, revision))
    result(
        {"row": row, "segments": [segment._asdict() for segment in segments]},
        checking.render_mask(segments, tokens=tokens),
        as_json=common.json,
    )
