"""Scores of answers against what was wanted, each with a 95 % interval.

Every metric first gives one number a row, then sums up: a share of rows takes Wilson's interval, a mean takes a seeded
percentile bootstrap. A row is never dropped: an answer that is no valid JSON counts 0 for each of its fields.

`measure(name, predictions, references)` computes a metric by name:

    exact-match         the answer is the reference, but for white space around it
    json                the answer is one JSON object with the wanted fields and no others
    field:NAME          the field equals the reference's field
    rouge-l             ROUGE-L F of the answer
    rouge-l:NAME        ROUGE-L F of a field that holds text
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np

from groundup.core.errors import GroundupError, UsageError

LEVEL = 0.95
RESAMPLES = 2000
SEED = 0


@dataclass(frozen=True)
class Score:
    """A measured number: `value` over `n` rows, and the interval [low, high] that holds it 95 times in 100.

    `values` has one number a row in the order of the rows, so that two scores over the same rows can be compared pair
    by pair; it is empty where a score is no mean over rows (perplexity).
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    values: tuple[float, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return f"{_digits(self.value)} [{_digits(self.low)}, {_digits(self.high)}]"


def _digits(value: float) -> str:
    """Three digits after the point for what lies in [-1, 1], two for what is larger."""
    return f"{value:.3f}" if abs(value) <= 1 else f"{value:.2f}"


# ------------------------------------------------------------------------------------------------------- intervals


def wilson(hits: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """The interval of a share, `hits` of `n`: it stays inside [0, 1] and is honest at 0 and n (Wilson 1927)."""
    if not 0 <= hits <= n or n == 0:
        raise UsageError(f"a share needs 0 <= hits <= rows and at least one row, not {hits} of {n}")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = hits / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (0.0 if hits == 0 else middle - half), (1.0 if hits == n else middle + half)


def bootstrap(
    values: Sequence[float],
    *,
    weights: Sequence[float] | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> tuple[float, float]:
    """The percentile bootstrap's interval of a mean (Efron 1979): rows drawn anew with replacement, `resamples` times.

    With `weights` (one a row) it is the interval of sum(values) / sum(weights), rows drawn together with their weight.
    """
    top = np.asarray(values, dtype=np.float64)
    bottom = np.ones_like(top) if weights is None else np.asarray(weights, dtype=np.float64)
    rng = np.random.default_rng(seed)
    at_once = max(1, 2_000_000 // len(top))
    means: list[np.ndarray] = []
    for start in range(0, resamples, at_once):
        drawn = rng.integers(0, len(top), (min(at_once, resamples - start), len(top)))
        means.append(top[drawn].sum(axis=1) / bottom[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def share(name: str, hits: Iterable[bool]) -> Score:
    """The share of rows that hit, with Wilson's interval."""
    values = tuple(float(hit) for hit in hits)
    if not values:
        raise UsageError(f"{name}: there are no rows to score")
    low, high = wilson(int(sum(values)), len(values))
    return Score(name, sum(values) / len(values), low, high, len(values), values)


def mean(name: str, numbers: Iterable[float]) -> Score:
    """The mean over rows, with a bootstrap interval."""
    values = tuple(float(number) for number in numbers)
    if not values:
        raise UsageError(f"{name}: there are no rows to score")
    low, high = bootstrap(values)
    return Score(name, math.fsum(values) / len(values), low, high, len(values), values)


def difference(before: Score, after: Score) -> Score:
    """after - before, row by row over the same rows, with a bootstrap interval of the paired differences."""
    if not before.values or len(before.values) != len(after.values):
        raise UsageError(f"{after.name}: a difference needs the same rows on both sides, not {before.n} and {after.n}")
    return mean(after.name, (b - a for a, b in zip(before.values, after.values, strict=True)))


# ----------------------------------------------------------------------------------------------------------- text


def exact_match(predictions: Sequence[str], references: Sequence[str], name: str = "exact match") -> Score:
    """The share of answers that are the reference, white space around both left aside."""
    return share(name, (ours.strip() == theirs.strip() for ours, theirs in _pairs(predictions, references)))


def accuracy(predictions: Sequence[object], references: Sequence[object], name: str = "accuracy") -> Score:
    """The share of labels that are right."""
    return share(name, (ours == theirs for ours, theirs in _pairs(predictions, references)))


def rouge_l(predictions: Sequence[str], references: Sequence[str], name: str = "ROUGE-L") -> Score:
    """Mean ROUGE-L F (Lin 2004), by `rouge-score` without stemming: the longest common subsequence of words."""
    score = _rouge_scorer()
    return mean(name, (score(ours, theirs) for ours, theirs in _pairs(predictions, references)))


def _rouge_scorer() -> Callable[[str, str], float]:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise GroundupError("ROUGE-L needs the rouge-score package: pip install 'groundup[eval]'") from error
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    return lambda ours, theirs: float(scorer.score(theirs, ours)["rougeL"].fmeasure)


def perplexity(losses: Sequence[float], tokens: Sequence[int], name: str = "perplexity") -> Score:
    """exp of the mean loss a token: `losses` are summed natural-log losses, `tokens` how many, one each a row.

    The interval draws whole rows anew, since the tokens of a row are not independent.
    """
    pairs = [(loss, count) for loss, count in _pairs(losses, tokens) if count > 0]
    if not pairs:
        raise UsageError(f"{name}: there are no tokens to score")
    summed, counts = [loss for loss, _ in pairs], [count for _, count in pairs]
    low, high = bootstrap(summed, weights=counts)
    return Score(name, _exp(math.fsum(summed) / sum(counts)), _exp(low), _exp(high), len(pairs))


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf


# ----------------------------------------------------------------------------------------------------------- JSON


def parse_object(text: str) -> dict[str, Any] | None:
    """The JSON object that `text` is, white space around it allowed; None for anything else.

    Stricter than Python's reader: NaN and Infinity are no JSON, and an object that names a key twice says nothing.
    """
    try:
        found = json.loads(text, parse_constant=_refuse, object_pairs_hook=_distinct)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def wanted_fields(schema: dict[str, Any]) -> tuple[frozenset[str], frozenset[str] | None]:
    """(required, allowed) fields of a JSON schema for an object; allowed is None where further fields are welcome.

    Where the schema does not say whether further fields are allowed, they are not: a system that expects two fields
    is not served by three.
    """
    named = frozenset(schema.get("properties", ()))
    required = frozenset(schema.get("required", named))
    return required, named | required if schema.get("additionalProperties", False) is False else None


def valid_json(
    predictions: Sequence[str],
    *,
    fields: Iterable[str] | None = None,
    schema: dict[str, Any] | None = None,
    name: str = "valid JSON",
) -> Score:
    """The share of answers that are one JSON object with all the wanted fields and no others.

    The fields are `fields`, or those that `schema` names; with neither, any object is valid. What the fields hold is
    the business of `field_accuracy` and `rouge_l_of_field`.
    """
    required: frozenset[str] = frozenset()
    allowed: frozenset[str] | None = None
    if fields is not None:
        required = allowed = frozenset(fields)
    elif schema is not None:
        required, allowed = wanted_fields(schema)

    def valid(text: str) -> bool:
        found = parse_object(text)
        return found is not None and required <= found.keys() and (allowed is None or found.keys() <= allowed)

    return share(name, (valid(text) for text in predictions))


def field_accuracy(predictions: Sequence[str], references: Sequence[str], of: str, name: str | None = None) -> Score:
    """The share of rows whose field `of` is that of the reference. Numbers, lists and objects are compared as JSON."""
    return share(name or f"right {of}", (ours == theirs for ours, theirs in _fields(predictions, references, of)))


def rouge_l_of_field(predictions: Sequence[str], references: Sequence[str], of: str, name: str | None = None) -> Score:
    """Mean ROUGE-L F of the text in the field `of`; 0 where the answer has no such text."""
    score = _rouge_scorer()
    pairs = _fields(predictions, references, of, text=True)
    return mean(
        name or f"ROUGE-L of {of}", (0.0 if ours is None else score(ours, str(theirs)) for ours, theirs in pairs)
    )


def _fields(
    predictions: Sequence[str], references: Sequence[str], of: str, *, text: bool = False
) -> list[tuple[str | None, str]]:
    """(ours or None, theirs) for the field `of` of every row: plain text, or its canonical JSON."""
    pairs: list[tuple[str | None, str]] = []
    for row, (ours, theirs) in enumerate(_pairs(predictions, references)):
        wanted, found = parse_object(theirs), parse_object(ours)
        if wanted is None or of not in wanted:
            raise UsageError(f"row {row + 1}: the reference is no JSON object with a field {of!r}: {theirs[:60]!r}")
        if text and not isinstance(wanted[of], str):
            raise UsageError(f"row {row + 1}: the reference's field {of!r} holds no text but {wanted[of]!r}")
        if text:
            got = found.get(of) if found else None
            pairs.append((got if isinstance(got, str) else None, wanted[of]))
        else:
            pairs.append((_canonical(found[of]) if found and of in found else None, _canonical(wanted[of])))
    return pairs


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True)


# -------------------------------------------------------------------------------------------------------- by name


def measure(
    metric: str, predictions: Sequence[str], references: Sequence[str], *, schema: dict[str, Any] | None = None
) -> Score:
    """The metric of this name (see the top of the file). UsageError for a name that is none.

    `json` takes its fields from `schema`, or from the references where all of them have the same.
    """
    kind, _, of = metric.partition(":")
    if metric == "exact-match":
        return exact_match(predictions, references)
    if metric == "json":
        return valid_json(predictions, fields=None if schema else common_fields(references), schema=schema)
    if metric == "rouge-l":
        return rouge_l(predictions, references)
    if kind == "rouge-l" and of:
        return rouge_l_of_field(predictions, references, of)
    if kind == "field" and of:
        return field_accuracy(predictions, references, of)
    raise UsageError(
        f"there is no metric {metric!r}: take exact-match, json, field:NAME, rouge-l, rouge-l:NAME (and perplexity)"
    )


def common_fields(references: Sequence[str]) -> tuple[str, ...] | None:
    """The fields that every reference has, when all are JSON objects with the same fields; else None."""
    found = [parse_object(text) for text in references]
    if not found or any(row is None for row in found):
        return None
    sets = {frozenset(row or ()) for row in found}
    return tuple(found[0] or ()) if len(sets) == 1 else None


def suitable(references: Sequence[str]) -> list[str]:
    """The metrics that fit these references: json and one for each field, or exact match and ROUGE-L for plain text.

    A field of text that takes few different values is a label (accuracy); other text is compared by ROUGE-L.
    """
    fields = common_fields(references)
    if not fields:
        few = len(set(references)) <= max(2, len(references) // 4)
        return ["exact-match"] if few else ["exact-match", "rouge-l"]
    rows = [parse_object(text) or {} for text in references]
    return [
        "json",
        *(f"field:{name}" if is_label([row[name] for row in rows]) else f"rouge-l:{name}" for name in fields),
    ]


def is_label(values: Sequence[object]) -> bool:
    """Whether a column is a class and no free text: not all text, or few different values of at most three words."""
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) < len(values):
        return True
    return len(set(texts)) <= max(2, len(texts) // 4) and max(len(text.split()) for text in texts) <= 3


def _pairs(ours: Sequence[Any], theirs: Sequence[Any]) -> Iterable[tuple[Any, Any]]:
    if len(ours) != len(theirs):
        raise UsageError(f"{len(ours)} answers for {len(theirs)} references: there must be one each")
    return zip(ours, theirs, strict=True)
