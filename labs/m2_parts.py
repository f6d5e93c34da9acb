"""What the labs of module 2 share: a base that has read the King James Bible, tasks in rows, one run of tuning, spreads.

The base is a tiny BLOOM (the course's family) with a head of its own. It is trained once, and then taken from beside the
labs' folders. A twentieth of the verses is held out of it; tests are made of those.
"""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any

from m1_parts import pretrained

import groundup as gu
from groundup.data import rows
from groundup.data.listing import jsonl
from groundup.peft.method import Method

SIZES = {"quick": (1, 32), "small": (2, 48), "middle": (4, 96), "large": (4, 192)}  # blocks, width
STEPS = {"quick": 15, "small": 1500, "middle": 1500, "large": 1500}
BOOKS = {"Ge": "Genesis", "Psa": "Psalms", "Prv": "Proverbs", "Mat": "Matthew"}
Rows = list[dict[str, Any]]


@cache
def verses() -> tuple[Rows, Rows]:
    """The Bible's verses with their books: to learn from, and every twentieth one held out."""
    found = [item.record for item in rows.Stream("bible").good()]
    return [verse for i, verse in enumerate(found) if i % 20], found[::20]


def bible(given: Namespace, size: str = "middle") -> gu.Model:
    """The base of this size (with --quick the smallest, which has learned next to nothing)."""
    size = "quick" if given.quick else size
    layers, width = SIZES[size]
    home = given.out.parent / "bases"
    texts = [home / f"{part}.jsonl" for part in ("train", "validation")]
    for path, part in zip(texts, verses(), strict=True):
        if not path.exists():
            write(path, [{"text": verse["text"]} for verse in part])
    recipe = {
        "family": "bloom",
        "model": {"n_layer": layers, "hidden_size": width, "n_head": 4, "tie_word_embeddings": False},
        "tokenizer": {"kind": "bpe", "vocabulary": 2000},
        "data": {"source": str(texts[0]), "validation": str(texts[1]), "length": 64, "documents": "joined"},
        "batch": 16,
        "learning_rate": 3e-3,
        "precision": "float32",
    }
    return pretrained(recipe, home / size, steps=STEPS[size])


def write(path: Path, items: Sequence[dict[str, Any]]) -> Path:
    """Rows as a file of JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jsonl(list(items)))
    return path


def books(train: int, test: int) -> tuple[Rows, Rows]:
    """A task: from which of four books is this verse? The verses of the test are held out of the base, too."""
    parts = []
    for part, most in zip(verses(), (train, test), strict=True):
        asked = [{"prompt": f"{v['text']}\nBook:", "completion": f" {BOOKS[v['book']]}"} for v in part
                 if v["book"] in BOOKS and len(v["text"]) < 200]  # fmt: skip
        parts.append([asked[i * len(asked) // most] for i in range(most)])
    return parts[0], parts[1]


@dataclass(frozen=True)
class Tuned:
    """What a run leaves: the model with its best weights, the loss on the test's rows at the end, and its seconds."""

    model: gu.Model
    loss: float
    seconds: float


def tune(model: gu.Model, method: Method, train: Rows, test: Rows, *, seed: int = 0, **how: Any) -> Tuned:
    """Tune a fresh adapter of this seed on rows, and judge it by others after the last step alone: nothing is chosen by
    the test. `how` as in `gu.finetune`; the run's folder is thrown away."""
    with TemporaryDirectory() as folder:
        held = write(Path(folder) / "test.jsonl", test)
        how = {"batch": 16, "precision": "float32", "save_every": 1e9, **how}
        run = gu.finetune(gu.adapt(model, method, seed=seed), train, validation=held, out=Path(folder) / "run", seed=seed,
                          validate_every=1_000_000, **how)  # fmt: skip
        return Tuned(gu.load(run.out), run.last_loss, run.seconds)


def right(model: gu.Model, test: Rows, tokens: int = 8) -> float:
    """The share of rows that are answered word for word."""
    return gu.evaluate(model, test, metrics=["exact-match"], max_tokens=tokens).score("exact match").value


def perplexity(model: gu.Model, test: Rows) -> float:
    """e to the mean surprise at a token."""
    return gu.evaluate(model, test, metrics=["perplexity"]).score("perplexity").value


def trained(model: gu.Model, method: Method) -> int:
    """How many numbers a method trains."""
    tuned = gu.adapt(model, method)
    return sum(p.numel() for p in method.trained(tuned.network, str(tuned.adapter)).values())


def spread(values: Sequence[float], digits: int = 3) -> str:
    """mean ± standard deviation over seeds."""
    return f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}" if len(values) > 1 else f"{values[0]:.{digits}f}"


def around(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean, and a standard deviation to both sides, for a picture."""
    off = stdev(values) if len(values) > 1 else 0.0
    return mean(values), mean(values) - off, mean(values) + off


def apart(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two means differ by more than twice the standard error of their difference (False for single runs)."""
    if min(len(one), len(other)) < 2:
        return False
    return abs(mean(one) - mean(other)) > 2 * (stdev(one) ** 2 / len(one) + stdev(other) ** 2 / len(other)) ** 0.5


def verdict(claims: dict[str, bool]) -> None:
    """Print which claims hold here."""
    for claim, holds in claims.items():
        print(f"{'holds' if holds else 'FAILS'}: {claim}")
