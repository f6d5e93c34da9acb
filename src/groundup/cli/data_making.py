"""`groundup data split|mix|shots|arithmetic`: files of rows made of others, or of nothing but numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from groundup.cli.data_rows import counting, rows_of
from groundup.cli.options import Common, words
from groundup.cli.output import result
from groundup.core.errors import UsageError


def split(
    file: Path,
    /,
    *,
    out: Path,
    validation: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    by: str | None = None,
    common: Common = Common(),
) -> None:
    """Divide a file into train, validation and test; rows that ask the same never stand in two parts.

    Parameters
    ----------
    file
        A file of rows, a folder with train.jsonl in it, or a data starter's name.
    out
        The new folder for train.jsonl, validation.jsonl and test.jsonl.
    validation
        A share of the rows below 1, or a number of rows.
    test
        A share of the rows below 1, or a number of rows.
    seed
        The same seed and rows give the same parts, in whatever order the rows stand.
    by
        Rows with the same value in this field stay together as well.
    """
    from groundup.data.parts import divide_file

    found = divide_file(rows_of(file), out, validation=validation, test=test, seed=seed, by=by)
    result(found.to_dict(), found.text(), as_json=common.json)


def mix(
    files: tuple[str, ...],
    /,
    *,
    out: Path,
    rows: int | None = None,
    after: int = 0,
    seed: int = 0,
    in_order: bool = False,
    meta: bool = False,
    common: Common = Common(),
) -> None:
    """Mix files by weight; the same seed gives the same rows, and a mixture can be continued where it ended.

    Parameters
    ----------
    files
        Each as FILE or FILE=WEIGHT (relative shares of the rows; 1 if left out). Data starters' names will do.
    out
        The new file (.jsonl, .jsonl.gz).
    rows
        How many rows; files that end begin again. Left out: until one would.
    after
        Go on from this place of the same mixture (it is told when it ends).
    seed
        Which rows are drawn.
    in_order
        Take each file's rows as they stand, streamed, instead of in an order that the seed draws.
    meta
        Say in each row where it is from: {"meta": {"pile_set_name": FILE}}.
    """
    from groundup.data.mixture import mix

    weights: dict[str | Path, float] = {}
    for each in files:
        name, weight = _weight(each)
        path = rows_of(Path(name))
        if path in weights:
            raise UsageError(f"{name} is given twice; give it once, with its whole weight")
        weights[path] = weight
    with counting() as tell:
        found = mix(weights, out, rows=rows, after=after, seed=seed, shuffle=not in_order, meta=meta, on_progress=tell)
    result(found.to_dict(), found.text(), as_json=common.json)


def _weight(text: str) -> tuple[str, float]:
    name, sign, weight = text.rpartition("=")
    if not sign or Path(text).exists():
        return text, 1.0
    try:
        return name, float(weight)
    except ValueError:
        raise UsageError(f"'{weight}' is no weight: write {name}=0.5") from None


def shots(
    file: Path,
    examples: Path,
    /,
    *,
    out: Path,
    k: int = 4,
    instruction: str = "",
    form: Literal["chat", "text"] = "chat",
    seed: int = 0,
    common: Common = Common(),
) -> None:
    """Put k answered examples before the question of each row: in-context learning, with no weight changed.

    Parameters
    ----------
    file
        The rows to ask: a file, a folder with test.jsonl in it, or a data starter's name.
    examples
        The rows to show: a file, a folder with train.jsonl in it, or a data starter's name.
    out
        The new file (.jsonl, .jsonl.gz); `groundup evaluate MODEL --data` answers it.
    k
        How many examples each row is shown; 0 adds the instruction alone.
    instruction
        What is said before all.
    form
        chat: as turns of a conversation; text: as one text, for models without a chat template.
    seed
        Which examples are drawn.
    """
    from groundup.data.incontext import shots
    from groundup.data.rows import read
    from groundup.data.writing import writing

    asked, shown = read(rows_of(file, "test"), part="test"), read(rows_of(examples))
    with writing(out) as write:
        for row in shots(asked.rows, shown.rows, k, instruction=instruction, form=form, seed=seed):
            write(row)
    told = {"file": str(out), "rows": len(asked), "examples": k}
    result(told, f"{out}: {len(asked)} rows, {k} examples each", as_json=common.json)


def arithmetic(
    *,
    out: Path,
    rows: int = 1000,
    tasks: tuple[str, ...] = (),
    digits: int = 16,
    answers_only: bool = False,
    seed: int = 0,
    common: Common = Common(),
) -> None:
    """Make rows of arithmetic as Goat has them, every step of every answer checked.

    Parameters
    ----------
    out
        The new file (.jsonl, .jsonl.gz).
    rows
        How many; no question stands twice.
    tasks
        add, subtract, multiply, divide, with commas between; left out: all of them.
    digits
        The longest number.
    answers_only
        Leave out the steps that lead to a product or a quotient.
    seed
        The same seed gives the same rows.
    """
    from groundup.data.arithmetic import TASKS, generate
    from groundup.data.writing import writing

    count = 0
    with writing(out) as write, counting() as tell:
        for problem in generate(rows, tasks=words(tasks) or TASKS, digits=digits, seed=seed):
            write(problem.row(chain=not answers_only))
            count += 1
            if count % 1024 == 0:
                tell(count, rows)
    result({"file": str(out), "rows": count}, f"{out}: {count} rows of arithmetic, all checked", as_json=common.json)
