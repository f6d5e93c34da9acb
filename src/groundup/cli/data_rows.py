"""What the verbs of `groundup data` share: rows by the name of a file or a starter, and the tokenizer of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from groundup.cli.progress import Progress

if TYPE_CHECKING:
    from groundup.inputs.tokenizer import Tokenizer


def rows_of(file: Path, part: str = "train") -> Path:
    """The name as it is; where it is a starter's, that is fetched first, and the bytes are seen to come."""
    from groundup.data import listing

    if listing.is_starter(file):
        with Progress("MB") as progress:
            tell = lambda done, total: progress.update(round(done / 1e6, 1), round(total / 1e6, 1))
            listing.locate(file, part, tell)
    return file


@contextmanager
def counting(what: str = "row") -> Iterator[Callable[..., None]]:
    """A function that shows how many are done, (done) or (done, total)."""
    with Progress(what) as progress:
        yield lambda done, total=None: progress.update(done, total)


def tokenizer_of(model: str, revision: str | None) -> Tokenizer:
    """The model's tokenizer, without its weights; UsageError where it has none."""
    from groundup import api

    return api.tokenizer(model, revision=revision)
