"""Scores of labels: accuracy and macro-F1; correlation and error of numbers; tags of words and their spans.

F1 and its average over labels are scikit-learn's. A span is a run of B-X I-X ... (an I-X that goes on from nothing begins
one), and counts where both ends and the name are right (Tjong Kim Sang and De Meulder, CoNLL-2003, cs/0306050).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np

from groundup.core.errors import GroundupError, UsageError
from groundup.core.labels import Labels
from groundup.evaluation.metrics import LEVEL, SEED, Score, mean, share

RESAMPLES = 300


def label_scores(labels: Labels, said: Sequence[Sequence[float]], wanted: Sequence[Sequence[float]]) -> list[Score]:
    """The scores of probabilities (or numbers) `said` of the labels, a line a text, against the targets."""
    if len(said) != len(wanted) or not said:
        raise UsageError(f"{len(said)} answers for {len(wanted)} labels: there must be one each, and at least one")
    ours, theirs = np.asarray(said, dtype=np.float64), np.asarray(wanted, dtype=np.float64)
    if labels.problem == "regression":
        error = ((ours - theirs) ** 2).mean(1)
        return [
            *([pearson(ours[:, 0], theirs[:, 0])] if len(labels.names) == 1 else []),
            mean("squared error", error.tolist()),
        ]
    if labels.problem == "multi":
        held = (ours > 0.5).astype(int)
        return [share("all labels right", (held == theirs).all(1).tolist()), _f1("macro-F1", theirs.astype(int), held)]
    found, right = ours.argmax(1), theirs.argmax(1)
    return [share("accuracy", (found == right).tolist()), _f1("macro-F1", right, found)]


def tag_scores(said: Sequence[Sequence[str]], wanted: Sequence[Sequence[str]]) -> list[Score]:
    """Accuracy over words, and F1 over spans where the tags are of the kind B-X, I-X, O."""
    if [len(s) for s in said] != [len(w) for w in wanted] or not said:
        raise UsageError("there must be one tag a word, and at least one text")
    found = [
        share("word accuracy", (a == b for s, w in zip(said, wanted, strict=True) for a, b in zip(s, w, strict=True)))
    ]
    if all(tag == "O" or tag[:2] in ("B-", "I-") for tags in wanted for tag in tags):
        pairs = [(spans(s), spans(w)) for s, w in zip(said, wanted, strict=True)]
        counts = np.array([(len(a & b), len(a), len(b)) for a, b in pairs])

        def f1(rows: np.ndarray) -> float:
            hits, ours, theirs = counts[rows].sum(0)
            return 2 * hits / (ours + theirs) if ours + theirs else 1.0

        found.append(_resampled("span F1", len(pairs), f1))
    return found


def spans(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """(name, begin, end) of every span of B-X I-X tags."""
    found: set[tuple[str, int, int]] = set()
    begin, name = 0, ""
    for at, tag in enumerate([*tags, "O"]):
        kind, _, of = tag.partition("-")
        if name and not (kind == "I" and of == name):
            found.add((name, begin, at))
            name = ""
        if kind in ("B", "I") and not name:
            begin, name = at, of
    return found


def pearson(ours: np.ndarray, theirs: np.ndarray) -> Score:
    """The correlation of two columns of numbers, with Fisher's interval; 0 where one of them never changes."""
    n = len(ours)
    r = float(np.corrcoef(ours, theirs)[0, 1]) if n > 1 and ours.std() > 0 and theirs.std() > 0 else 0.0
    if n < 4:
        return Score("Pearson r", r, -1.0, 1.0, n)
    half = NormalDist().inv_cdf((1 + LEVEL) / 2) / math.sqrt(n - 3)
    z = math.atanh(max(-1 + 1e-12, min(1 - 1e-12, r)))
    return Score("Pearson r", r, math.tanh(z - half), math.tanh(z + half), n)


def _f1(name: str, wanted: np.ndarray, found: np.ndarray) -> Score:
    try:
        from sklearn.metrics import f1_score
    except ImportError as error:
        raise GroundupError("this score needs scikit-learn: pip install 'groundup[data]'") from error

    def f1(rows: np.ndarray) -> float:
        return float(f1_score(wanted[rows], found[rows], average="macro", zero_division=0.0))

    return _resampled(name, len(wanted), f1)


def _resampled(name: str, n: int, measure: Callable[[np.ndarray], float]) -> Score:
    """A measure of all rows, with the percentile bootstrap's interval."""
    rng = np.random.default_rng(SEED)
    drawn = [measure(rng.integers(0, n, n)) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Score(name, float(measure(np.arange(n))), float(low), float(high), n)
