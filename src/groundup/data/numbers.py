"""Rows of number words, made by rule, for a model that learns from nothing: reversing, and writing a number as digits.

    {"prompt": "reverse: seven two nine", "completion": "nine two seven"}
    {"prompt": "digits: four hundred and seventy two", "completion": "4 7 2"}

    python -m groundup.data.numbers numbers         makes numbers/train.jsonl and numbers/test.jsonl

No prompt of the test stands in the training rows. A reversed row can only be right where positions are known: without
them a row is a bag of words.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from groundup.core.errors import UsageError
from groundup.core.files import atomic_folder
from groundup.data.kinds import Row
from groundup.data.listing import jsonl

ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
TASKS = ("reverse", "digits")
MOST = 999_999


def parts(
    train: int = 20000, test: int = 500, *, tasks: Sequence[str] = TASKS, longest: int = 8, seed: int = 0
) -> dict[str, list[Row]]:
    """So many rows of training and test, all prompts different, the tasks in turn.

    longest  words to reverse, from 2; numbers go up to 999,999
    Raises UsageError for a task that there is not, and where there are not so many different rows.
    """
    odd = [task for task in tasks if task not in TASKS]
    if odd or not tasks:
        raise UsageError(f"tasks {', '.join(odd) or 'none'}: there are {', '.join(TASKS)}")
    draw, found, tries = random.Random(seed), dict[str, Row](), 0
    while len(found) < train + test:
        row = _MADE[tasks[len(found) % len(tasks)]](draw, longest)
        found.setdefault(row["prompt"], row)
        tries += 1
        if tries > 20 * (train + test):
            raise UsageError(f"there are not {train + test:,} different rows of {longest} words: ask for fewer")
    rows = list(found.values())
    return {"train": rows[:train], "test": rows[train:]}


def write(out: str | Path, **how: Any) -> Path:
    """The parts as train.jsonl and test.jsonl in a new folder; `how` as in `parts`."""
    with atomic_folder(out) as folder:
        for name, rows in parts(**how).items():
            (folder / f"{name}.jsonl").write_bytes(jsonl(rows))
    return Path(out)


def words(number: int) -> str:
    """A number from 0 to 999,999 in English: 472 -> "four hundred and seventy two"."""
    if not 0 <= number <= MOST:
        raise UsageError(f"{number} has no words here: give a number from 0 to {MOST:,}")
    if number >= 1000:
        rest = number % 1000
        joint = " and " if 0 < rest < 100 else " "
        return words(number // 1000) + " thousand" + (joint + words(rest) if rest else "")
    if number >= 100:
        rest = number % 100
        return f"{ONES[number // 100]} hundred" + (f" and {words(rest)}" if rest else "")
    if number >= 20:
        return TENS[number // 10 - 2] + (f" {ONES[number % 10]}" if number % 10 else "")
    return ONES[number]


def _reversed(draw: random.Random, longest: int) -> Row:
    said = [draw.choice(ONES) for _ in range(draw.randint(2, longest))]
    return {"prompt": f"reverse: {' '.join(said)}", "completion": " ".join(reversed(said))}


def _digits(draw: random.Random, longest: int) -> Row:
    number = draw.randrange(10 ** draw.randint(1, 6))  # short numbers as often as long ones
    return {"prompt": f"digits: {words(number)}", "completion": " ".join(str(number))}


_MADE = {"reverse": _reversed, "digits": _digits}


def main() -> None:
    options = argparse.ArgumentParser(description="Rows of number words: reversing, and writing a number as digits.")
    options.add_argument("out", help="a new folder")
    options.add_argument("--train", type=int, default=20000)
    options.add_argument("--test", type=int, default=500)
    options.add_argument("--longest", type=int, default=8, help="words to reverse")
    options.add_argument("--seed", type=int, default=0)
    print(write(**vars(options.parse_args())))


if __name__ == "__main__":
    main()
