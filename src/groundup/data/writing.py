"""Rows written to a file: one JSON object a line, packed where the name says .gz, and all of the file or nothing."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, time
from decimal import Decimal
from pathlib import Path

from groundup.core.errors import UsageError
from groundup.core.files import explained, replacing
from groundup.data.formats import Record
from groundup.data.packed import ending

Write = Callable[[Record], None]


@contextmanager
def writing(path: str | Path | None) -> Iterator[Write]:
    """Give a function that writes a row; the file is there when the block has ended well. None writes nothing.

    Raises UsageError for a file that exists (it is never overwritten) and for another ending than .jsonl(.gz).
    """
    if path is None:
        yield lambda record: None
        return
    target = Path(path).absolute()
    free(target)
    with explained(path), replacing(target) as temporary, temporary.open("wb") as file:
        # without name and time, so that equal rows give equal bytes
        packed = gzip.GzipFile("", "wb", fileobj=file, mtime=0) if target.suffix == ".gz" else None
        with io.TextIOWrapper(packed or file, encoding="utf-8", newline="\n") as lines:
            yield lambda record: print(line(record), file=lines)


def free(path: Path) -> None:
    """UsageError where rows cannot be written to this path: it exists, or its name promises another format."""
    if path.suffix.lower() == ".zst" or ending(path) != ".jsonl":
        raise UsageError(f"rows are written as .jsonl or .jsonl.gz, not as '{path.name}'")
    if path.is_symlink() or path.exists():
        raise UsageError(f"{path} exists and is not overwritten: remove it or name another --out")


def line(record: Record) -> str:
    """The row as one line of JSON. Dates become texts; UsageError for what JSON cannot hold."""
    try:
        return json.dumps(record, ensure_ascii=False, allow_nan=False, default=_plain)
    except (ValueError, TypeError) as error:
        raise UsageError(f"a row cannot be written as JSON: {error}. Leave that column out.") from None


def _plain(value: object) -> str:
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"it holds {type(value).__name__}")
