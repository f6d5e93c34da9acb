"""Rows divided into training, validation and test parts, so that nothing in one part gives another one away.

Rows that ask the same (but for case and white space) go to the same part, whatever they answer; and so do rows that have
the same value in a field, say the same author. Which part is drawn by a hash of the group and the seed: the same rows
and seed give the same parts, in whatever order the rows stand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundup.core.errors import UsageError
from groundup.core.files import atomic_folder
from groundup.data.formats import Record
from groundup.data.rows import Item, Stream
from groundup.data.texts import asked, chosen, fold
from groundup.data.writing import line

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Divided:
    """How many rows each part has, how many groups there are, and the folder with a file of rows for each part."""

    file: str
    rows: dict[str, int]
    groups: int
    out: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return self.__dict__ | {}

    def text(self) -> str:
        """Two lines for a terminal."""
        parts = ", ".join(f"{count} {part}" for part, count in self.rows.items() if count)
        where = f" in {self.out}" if self.out else ""
        return f"{self.file}: {parts}{where}\n{self.groups} groups of rows that belong together; none is in two parts"


def divide(
    items: Sequence[Item],
    *,
    validation: float = 0.0,
    test: float = 0.0,
    seed: int = 0,
    by: str | None = None,
) -> dict[str, list[int]]:
    """The indices of the rows of each part, in their order.

    `validation` and `test` are shares of the rows below 1, or numbers of rows from 1 on. A part may have a few more rows
    than asked, where a group would be torn, never fewer. Raises UsageError where nothing is left to train.
    """
    wanted = {"test": _count(test, len(items), "test"), "validation": _count(validation, len(items), "validation")}
    groups = sorted(_groups(items, by), key=lambda group: _draw(group[0], seed))
    parts: dict[str, list[int]] = {part: [] for part in PARTS}
    for _, members in groups:
        part = next((name for name, count in wanted.items() if len(parts[name]) < count), "train")
        parts[part] += members
    if not parts["train"]:
        raise UsageError(
            f"{len(items)} rows in {len(groups)} groups leave nothing to train beside {wanted['validation']} for "
            f"validation and {wanted['test']} for test. Ask for fewer."
        )
    return {part: sorted(members) for part, members in parts.items()}


def divide_file(
    source: str | Path | Sequence[Record],
    out: str | Path | None = None,
    *,
    validation: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    by: str | None = None,
    part: str = "train",
) -> Divided:
    """Divide a file and write the parts as train.jsonl, validation.jsonl and test.jsonl into the new folder `out`."""
    stream = Stream(source, part=part)
    items = list(stream.good())
    parts = divide(items, validation=validation, test=test, seed=seed, by=by)
    if out is not None:
        with atomic_folder(out) as folder:
            for name, members in parts.items():
                if members:
                    text = "".join(line(items[at].record) + "\n" for at in members)
                    (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    counts = {name: len(members) for name, members in parts.items()}
    where = None if out is None else str(out)
    return Divided(stream.title, counts, len(_groups(items, by)), where)


def _count(wanted: float, rows: int, part: str) -> int:
    if wanted < 0 or (wanted > 1 and wanted != int(wanted)):
        raise UsageError(f"--{part} is {wanted:g}. Give a share below 1, or a whole number of rows.")
    return round(wanted * rows) if wanted < 1 else int(wanted)


def _groups(items: Sequence[Item], by: str | None) -> list[tuple[str, list[int]]]:
    """Rows that belong together, each group with a name that does not depend on the order of the rows."""
    leader = list(range(len(items)))

    def find(at: int) -> int:
        while leader[at] != at:
            leader[at] = at = leader[leader[at]]
        return at

    first: dict[str, int] = {}
    names = [[f"asks {fold(asked(item.row))}"] + ([f"has {chosen(item, by)}"] if by else []) for item in items]
    for at, keys in enumerate(names):
        for key in keys:
            leader[find(at)] = find(first.setdefault(key, at))
    members: dict[int, list[int]] = {}
    for at in range(len(items)):
        members.setdefault(find(at), []).append(at)
    return [(min(key for at in group for key in names[at]), group) for group in members.values()]


def _draw(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\n{name}".encode("utf-8", "surrogatepass")).digest()
