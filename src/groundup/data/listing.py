"""The data sets that come as the models do, by name: wherever a file of rows is read, a starter's name will do.

What a starter holds is made into rows once and kept in the cache, one file a part.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from groundup.checkpoints.starters import STARTERS, Progress, fetch
from groundup.core.errors import UsageError
from groundup.core.files import atomic_folder, cache_dir
from groundup.data.kinds import Row

MADE = 1  # counted up when other rows are made of the same files, so that old ones are not taken for them


def starters() -> list[str]:
    """Names of the starters that are data."""
    return [name for name, starter in STARTERS.items() if starter.kind == "data"]


def is_starter(source: object) -> bool:
    """Whether this names a data starter; a file or folder of that name goes before it."""
    return str(source) in starters() and not Path(str(source)).exists()


def locate(source: str | Path, part: str = "train", progress: Progress | None = None) -> Path:
    """The path `source`; for a starter's name the file of its `part` ("train", "test"), fetched and made when missing.

    Raises UsageError for a part that the starter has not.
    """
    if not is_starter(source):
        return Path(source)
    name = str(source)
    folder = cache_dir() / "rows" / f"{name}-{STARTERS[name].version.replace(':', '-')}-{MADE}"
    if not folder.is_dir():
        parts = import_module(f"groundup.data.{name}").parts(fetch(name, progress))
        with atomic_folder(folder, replace=True) as target:
            for each, rows in parts.items():
                (target / f"{name}-{each}.jsonl").write_bytes(jsonl(rows))
    path = folder / f"{name}-{part}.jsonl"
    if not path.is_file():
        others = ", ".join(sorted(file.stem.removeprefix(f"{name}-") for file in folder.glob("*.jsonl")))
        raise UsageError(
            f"The starter '{name}' has no part '{part}', only {others}. "
            f"Divide it: groundup data split {name} --out {name}-parts"
        )
    return path


def jsonl(rows: Iterable[Row]) -> bytes:
    """Rows as the bytes of a .jsonl file."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
