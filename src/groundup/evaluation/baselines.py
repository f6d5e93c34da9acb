"""What a model must beat to be worth its memory: the commonest class, counting words, and a file packer.

All learn from the training rows and answer with one label a test row, so that the same metrics judge them.
"""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from groundup.core.errors import GroundupError, UsageError
from groundup.data.parts import divide
from groundup.data.rows import Item
from groundup.data.texts import asked, label

MOST = 50_000  # rows in all; more teach counted words little
MOST_TRAIN, MOST_TEST = 1000, 200  # rows of the packer, which packs every pair of them: 200,000 take about 6 seconds
MANY = 5_000
LEAST = 20  # rows; fewer tell nothing


def majority(labels: Sequence[str], rows: int) -> list[str]:
    """The commonest training label, `rows` times; of equally common ones the first in the alphabet."""
    if not labels:
        raise UsageError("the majority class needs at least one training row")
    counts = Counter(labels)
    return [min(counts, key=lambda label: (-counts[label], label))] * rows


def tfidf(texts: Sequence[str], labels: Sequence[str], unseen: Sequence[str]) -> list[str]:
    """Logistic regression over TF-IDF weights of words and word pairs (scikit-learn): labels for the `unseen` texts."""
    if len(texts) != len(labels):
        raise UsageError(f"{len(texts)} training texts for {len(labels)} labels: there must be one each")
    if len(set(labels)) < 2 or not unseen:
        return majority(labels, len(unseen))
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise GroundupError("this baseline needs scikit-learn: pip install 'groundup[data]'") from error
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    # the same model, found within 0.008 of the accuracy in a tenth of the time where texts are many
    how: dict[str, Any] = {"solver": "saga", "tol": 1e-3, "random_state": 0} if len(texts) > MANY else {}
    model = LogisticRegression(C=10.0, max_iter=1000, **how)
    model.fit(words.fit_transform(texts), labels)
    return [str(label) for label in model.predict(words.transform(unseen))]


def packed_neighbours(
    texts: Sequence[str],
    labels: Sequence[str],
    unseen: Sequence[str],
    *,
    k: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[list[str]]:
    """For each unseen text the labels that most of its k nearest neighbours have, the nearest one's first.

    Near is what packs well together (Z. Jiang et al., "Low-Resource" Text Classification, Findings of ACL 2023):
    NCD(x, y) = (C(xy) - min(C(x), C(y))) / max(C(x), C(y)), with C the length that gzip packs to and a space between x
    and y. More than one label is a tie: the first is the honest answer. The paper's own count took a row as right when
    any of the tied labels was, which with k = 2 is being right twice.
    """
    if len(texts) != len(labels) or len(texts) < k or k < 1:
        raise UsageError(f"{k} neighbours need as many training texts, with one label each: there are {len(texts)}")
    known = [text.encode("utf-8", "replace") for text in texts]
    sizes = [len(gzip.compress(data)) for data in known]
    found = list[list[str]]()
    for number, text in enumerate(unseen, start=1):
        own = text.encode("utf-8", "replace")
        size = len(gzip.compress(own))
        distances = [
            (len(gzip.compress(own + b" " + data)) - min(size, other)) / max(size, other)
            for data, other in zip(known, sizes, strict=True)
        ]
        nearest = sorted(range(len(known)), key=lambda at: (distances[at], at))[:k]
        votes = Counter(labels[at] for at in nearest)
        most = max(votes.values())
        found.append([name for name in votes if votes[name] == most])  # a Counter keeps the order of the nearest
        if on_progress is not None:
            on_progress(number, len(unseen))
    return found


@dataclass(frozen=True)
class Difficulty:
    """How hard a task of labels is for methods without a language model: shares of held-out rows that each got right.

    `packed_optimistic` counts a tie of gzip's neighbours as right when any of the tied labels is: for comparison with
    printed figures, not to be believed. The packer learns from `packed_rows` (train, test) rows.
    """

    train: int
    test: int
    labels: int
    majority: float
    tfidf: float
    packed: float
    packed_optimistic: float
    packed_rows: tuple[int, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return self.__dict__ | {}

    def text(self) -> str:
        """A few lines for a terminal."""
        of = f" ({self.packed_rows[0]} rows against {self.packed_rows[1]})"
        lines = [
            f"how hard it is: {self.labels} labels, {self.train} rows to learn from, {self.test} held out",
            f"the commonest label            {self.majority:.3f}",
            f"TF-IDF + logistic regression   {self.tfidf:.3f}",
            f"gzip + 2 nearest neighbours    {self.packed:.3f}{of}",
            f"... ties counted as right      {self.packed_optimistic:.3f}  (too kind: see docs/data.md)",
        ]
        return "\n".join(lines)


def difficulty(
    items: Sequence[Item],
    *,
    label_field: str | None = None,
    held_out: float = 0.2,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Difficulty | None:
    """Hold out a share of the rows (none that asks what a training row asks) and let the baselines answer them.

    None where there is no task of labels: fewer than 20 rows with one, or one label, or more than 100.
    """
    labels = [label(item, label_field) for item in items]
    kept = [at for at, name in enumerate(labels) if name is not None]
    kept = [kept[at] for at in _some(len(kept), MOST, seed)]
    names = {labels[at] for at in kept}
    if len(kept) < LEAST or not 2 <= len(names) <= min(100, len(kept) // 4):
        return None
    parts = divide([items[at] for at in kept], test=held_out, seed=seed)
    rows = {part: [kept[at] for at in parts[part]] for part in ("train", "test")}
    texts = {part: [asked(items[at].row) for at in rows[part]] for part in rows}
    right = {part: [str(labels[at]) for at in rows[part]] for part in rows}
    few = {part: _some(len(rows[part]), most, seed) for part, most in (("train", MOST_TRAIN), ("test", MOST_TEST))}
    voted = packed_neighbours(
        [texts["train"][at] for at in few["train"]],
        [right["train"][at] for at in few["train"]],
        [texts["test"][at] for at in few["test"]],
        on_progress=on_progress,
    )
    truth = [right["test"][at] for at in few["test"]]
    count = len(rows["test"])
    return Difficulty(
        train=len(rows["train"]),
        test=count,
        labels=len(names),
        majority=_share(majority(right["train"], count), right["test"]),
        tfidf=_share(tfidf(texts["train"], right["train"], texts["test"]), right["test"]),
        packed=_share([tied[0] for tied in voted], truth),
        packed_optimistic=sum(name in tied for name, tied in zip(truth, voted, strict=True)) / len(truth),
        packed_rows=(len(few["train"]), len(few["test"])),
    )


def _share(said: Sequence[str], right: Sequence[str]) -> float:
    return sum(one == other for one, other in zip(said, right, strict=True)) / len(right)


def _some(count: int, most: int, seed: int) -> list[int]:
    return sorted(Random(seed).sample(range(count), min(count, most)))
