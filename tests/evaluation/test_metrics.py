"""Metrics against closed forms, scipy and rouge-score; and what must not be forgiven."""

import json
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.errors import UsageError
from groundup.evaluation import metrics
from groundup.evaluation.metrics import measure


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (0, 13), (13, 13), (1, 7), (50, 101), (997, 1000)])
def test_wilson_is_scipys(hits: int, n: int) -> None:
    oracle = scipy.stats.binomtest(hits, n).proportion_ci(confidence_level=0.95, method="wilson")
    assert metrics.wilson(hits, n) == pytest.approx((oracle.low, oracle.high), abs=1e-12)


@given(st.integers(1, 300), st.data())
@settings(max_examples=50, deadline=None)
def test_wilson_holds_the_share_and_stays_inside(n: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, n))
    low, high = metrics.wilson(hits, n)
    assert 0 <= low <= hits / n <= high <= 1


def test_wilson_refuses_no_rows() -> None:
    with pytest.raises(UsageError, match="at least one row"):
        metrics.wilson(0, 0)


def test_bootstrap_is_scipys() -> None:
    values = np.random.default_rng(3).exponential(size=37)
    oracle = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=2000, rng=np.random.default_rng(5), confidence_level=0.95
    ).confidence_interval
    assert metrics.bootstrap(values.tolist(), seed=5) == pytest.approx((oracle.low, oracle.high), rel=1e-12)
    assert metrics.bootstrap(values.tolist(), seed=6) != metrics.bootstrap(values.tolist(), seed=5)


def test_bootstrap_covers_the_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hit = 0
    for _ in range(200):
        low, high = metrics.bootstrap(rng.normal(2.0, 1.0, size=60).tolist(), resamples=400)
        hit += low <= 2.0 <= high
    assert 0.89 <= hit / 200 <= 0.99


def test_a_share_and_a_mean_keep_one_value_a_row() -> None:
    score = metrics.share("x", [True, False, True])
    assert (score.value, score.n, score.values) == (pytest.approx(2 / 3), 3, (1.0, 0.0, 1.0))
    assert metrics.mean("y", [0.25, 0.75]).value == 0.5
    with pytest.raises(UsageError, match="no rows"):
        metrics.share("x", [])


def test_exact_match_forgives_outer_white_space_only() -> None:
    score = metrics.exact_match(["a b\n", "a  b", "A b"], ["a b", "a b", "a b"])
    assert score.values == (1, 0, 0)


def test_answers_and_references_must_be_as_many() -> None:
    with pytest.raises(UsageError, match="2 answers for 3 references"):
        metrics.exact_match(["a", "b"], ["a", "b", "c"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "1",
        "null",
        '{"a": 1} and more',
        'Here: {"a": 1}',
        "{'a': 1}",
        '{"a": NaN}',
        '{"a": 1, "a": 2}',
        '{"a": 1',
        "[" * 100_000,
        '{"a": ' * 100_000,
        '{"a": ' + "9" * 10_000 + "}",
    ],
    ids=range(13),
)
def test_what_is_no_json_object(text: str) -> None:
    assert metrics.parse_object(text) is None


def test_what_is_a_json_object() -> None:
    assert metrics.parse_object(' \n{"a": {"b": [1, "é"]}}\n') == {"a": {"b": [1, "é"]}}


def test_valid_json_wants_all_fields_and_no_others() -> None:
    answers = ['{"desk": "tech", "headline": "x"}', '{"desk": "tech"}', '{"desk": 1, "headline": 2, "more": 3}', "no"]
    assert metrics.valid_json(answers, fields=["desk", "headline"]).values == (1, 0, 0, 0)
    assert metrics.valid_json(answers).values == (1, 1, 1, 0)
    schema = {"type": "object", "properties": {"desk": {}, "headline": {}}, "required": ["desk"]}
    assert metrics.valid_json(answers, schema=schema).values == (1, 1, 0, 0)
    for welcome in (True, {}):
        assert metrics.valid_json(answers, schema=schema | {"additionalProperties": welcome}).values == (1, 1, 1, 0)


def test_a_field_of_invalid_json_counts_nothing_and_is_not_dropped() -> None:
    references = [json.dumps({"desk": "tech", "size": 1})] * 4
    answers = ['{"size": 1.0, "desk": "tech"}', '{"desk": "Tech", "size": true}', '{"desk": "tech"', '{"size": "1"}']
    assert metrics.field_accuracy(answers, references, "desk").values == (1, 0, 0, 0)
    # JSON's 1, 1.0, true and "1" are four different texts: nothing is taken for something else
    assert metrics.field_accuracy(answers, references, "size").values == (0, 0, 0, 0)
    assert metrics.field_accuracy(references, references, "size").n == 4
    with pytest.raises(UsageError, match="row 1.*no JSON object with a field 'date'"):
        metrics.field_accuracy(answers, references, "date")


def test_a_missing_field_is_not_a_null() -> None:
    reference = ['{"a": null}']
    assert metrics.field_accuracy(['{"a": null}'], reference, "a").value == 1
    assert metrics.field_accuracy(['{"b": null}'], reference, "a").value == 0
    assert metrics.field_accuracy(["null"], reference, "a").value == 0


def lcs(a: list[str], b: list[str]) -> int:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


WORDS = st.lists(st.sampled_from(["alpha", "beta", "gamma", "delta"]), min_size=1, max_size=9)


@given(WORDS, WORDS)
@settings(max_examples=40, deadline=None)
def test_rouge_l_is_the_common_subsequence_of_words(ours: list[str], theirs: list[str]) -> None:
    common = lcs(ours, theirs)
    precision, recall = common / len(ours), common / len(theirs)
    expected = 2 * precision * recall / (precision + recall) if common else 0.0
    score = metrics.rouge_l([" ".join(ours).upper()], [" ".join(theirs) + "."])
    assert score.value == pytest.approx(expected)


def test_rouge_l_does_not_stem() -> None:
    assert metrics.rouge_l(["running"], ["runs"]).value == 0


def test_rouge_l_of_a_field() -> None:
    references = ['{"headline": "Rates rise again"}'] * 3
    answers = ['{"headline": "rates rise"}', '{"headline": 7}', "Rates rise again"]
    assert metrics.rouge_l_of_field(answers, references, "headline").values == pytest.approx((0.8, 0, 0))
    with pytest.raises(UsageError, match="holds no text"):
        metrics.rouge_l_of_field(answers, ['{"headline": 1}'] * 3, "headline")


def test_perplexity_is_a_mean_over_tokens_not_rows() -> None:
    losses, tokens = [7 * math.log(2), 3 * math.log(16), 0.0], [7, 3, 0]
    score = metrics.perplexity(losses, tokens)
    assert score.value == pytest.approx(2 ** ((7 + 12) / 10))
    assert score.low <= score.value <= score.high
    assert score.n == 2
    assert metrics.perplexity([1e6], [1]).value == math.inf
    with pytest.raises(UsageError, match="no tokens"):
        metrics.perplexity([0.0], [0])


def test_a_uniform_model_has_the_vocabulary_as_perplexity() -> None:
    tokens = [3, 11, 5]
    score = metrics.perplexity([count * math.log(49152) for count in tokens], tokens)
    assert (score.value, score.low, score.high) == pytest.approx((49152, 49152, 49152))


def test_a_difference_is_paired() -> None:
    rng = np.random.default_rng(1)
    hard = rng.uniform(0, 0.9, size=80)
    before, after = metrics.mean("x", hard), metrics.mean("x", hard + 0.05)
    gain = metrics.difference(before, after)
    assert gain.value == pytest.approx(0.05)
    # every row gains the same: the pairs know it for sure, though the two intervals overlap widely
    assert gain.high - gain.low < 1e-9 and before.high > after.low
    with pytest.raises(UsageError, match="same rows"):
        metrics.difference(before, metrics.mean("x", hard[:5]))


def test_metrics_by_name() -> None:
    references = ['{"a": "x", "b": "one two"}', '{"b": "three", "a": "x"}']
    assert measure("json", ['{"a": 1, "b": 2}', '{"a": 1}'], references).values == (1, 0)
    assert measure("json", ['{"a": 1}', "{}"], references, schema={"properties": {"a": {}}}).values == (1, 0)
    assert measure("field:a", references, references).name == "right a"
    assert measure("rouge-l:b", references, references).value == 1
    assert measure("rouge-l", references, references).value == 1
    assert measure("exact-match", references, references).value == 1
    for wrong in ("bleu", "field:", "rouge-l:", "field", ""):
        with pytest.raises(UsageError, match="there is no metric"):
            measure(wrong, references, references)


def test_suitable_metrics_follow_the_references() -> None:
    desks = ["tech", "sport", "business"]
    rows = [json.dumps({"desk": desks[i % 3], "headline": f"item {i} came", "size": i}) for i in range(40)]
    assert metrics.suitable(rows) == ["json", "field:desk", "rouge-l:headline", "field:size"]
    assert metrics.suitable([f"a summary, the {i}th" for i in range(40)]) == ["exact-match", "rouge-l"]
    assert metrics.suitable([desks[i % 3] for i in range(40)]) == ["exact-match"]
    assert metrics.suitable(['{"a": "x"}', "{}"]) == ["exact-match"]
    assert metrics.suitable(['{"a": ""}']) == ["json", "field:a"]
