"""The plan of batches: each row once an epoch, a function of seed and epoch alone, resumed without a difference."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.core.errors import UsageError
from groundup.data.batches import Batches, Place
from groundup.inference.score import shared_prefix

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=200)
SIZES = st.one_of(
    st.builds(lambda n: {"rows_per_batch": n}, st.integers(1, 17)),
    st.builds(lambda n: {"tokens_per_batch": n}, st.integers(1, 900)),
)
SEEDS = st.integers(0, 2**64)


@given(LENGTHS, SIZES, SEEDS, st.integers(0, 5), st.integers(1, 9))
def test_every_row_exactly_once_an_epoch(
    lengths: list[int], size: dict[str, int], seed: int, epoch: int, window: int
) -> None:
    plan = Batches(lengths, seed=seed, window=window, **size).plan(epoch)
    assert sorted(row for batch in plan for row in batch) == list(range(len(lengths)))
    if limit := size.get("tokens_per_batch"):
        assert all(len(batch) == 1 or sum(lengths[row] for row in batch) <= limit for batch in plan)
    else:
        counts = sorted((len(batch) for batch in plan), reverse=True)
        assert all(count == size["rows_per_batch"] for count in counts[:-1])


@given(LENGTHS, SIZES, SEEDS, st.integers(0, 60))
def test_going_on_from_any_place_equals_the_unbroken_run(
    lengths: list[int], size: dict[str, int], seed: int, steps: int
) -> None:
    unbroken = list(islice(Batches(lengths, seed=seed, **size).after(), steps + 20))
    place = unbroken[steps - 1].next if steps else Place(0, 0)
    resumed = list(islice(Batches(lengths, seed=seed, **size).after(place), 20))
    assert resumed == unbroken[steps:]


def test_the_order_depends_on_seed_and_epoch() -> None:
    lengths = list(range(1, 120))
    first = Batches(lengths, rows_per_batch=4, seed=7)
    plans = [first.plan(0), first.plan(1), Batches(lengths, rows_per_batch=4, seed=8).plan(0)]
    plans.append(Batches(lengths, rows_per_batch=4, seed=7 + 2**32).plan(0))
    assert all(a != b for i, a in enumerate(plans) for b in plans[:i])
    assert first.plan(0) == plans[0]


def test_the_order_is_the_same_for_good() -> None:
    """Recorded: a run that goes on after an update of this library or of NumPy sees the same batches."""
    assert Batches([7, 2, 9, 4, 3, 8, 1], rows_per_batch=2, seed=5, window=2).plan(1) == [(1, 4), (0, 3), (5, 2), (6,)]


def test_lengths_are_near_equal_in_a_batch_and_the_order_stays_random() -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(20, 400, 4000).tolist()
    batches = Batches(lengths, rows_per_batch=8).plan(0)
    filler = sum(max(lengths[r] for r in b) * len(b) for b in batches) / sum(lengths) - 1
    unsorted = [list(range(i, i + 8)) for i in range(0, 4000, 8)]
    naive = sum(max(lengths[r] for r in b) * len(b) for b in unsorted) / sum(lengths) - 1
    assert filler < 0.05 < 0.5 < naive
    means = np.array([np.mean([lengths[r] for r in b]) for b in batches])
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.15


@pytest.mark.parametrize("size", [{"rows_per_batch": 6}, {"tokens_per_batch": 30}])
def test_the_last_incomplete_batch_may_be_left_out(size: dict[str, int]) -> None:
    lengths = [5] * 20
    kept, dropped = (Batches(lengths, keep_last=keep, **size).plan(0) for keep in (True, False))
    assert sorted(map(len, kept)) == [2, 6, 6, 6]
    assert list(map(len, dropped)) == [6, 6, 6]


def test_a_place_behind_the_last_batch_is_the_next_epoch() -> None:
    batches = Batches([3] * 5, rows_per_batch=2, seed=1)
    assert next(batches.after(Place(0, 3))) == next(batches.after(Place(1, 0)))
    assert [batch.next for batch in islice(batches.after(), 4)] == [(0, 1), (0, 2), (1, 0), (1, 1)]
    with pytest.raises(UsageError, match="Batch 4 of epoch 0 does not exist: these rows make 3"):
        next(batches.after(Place(0, 4)))


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ({"lengths": []}, "no rows"),
        ({"lengths": [1], "rows_per_batch": 0}, "A batch of 0 rows"),
        ({"lengths": [1], "rows_per_batch": 2, "tokens_per_batch": 9}, "one of the two"),
        ({"lengths": [1], "rows_per_batch": 2, "keep_last": False}, "1 rows make no batch of 2"),
        ({"lengths": [1], "seed": -1}, "seed is -1"),
    ],
)
def test_sizes_that_make_no_batch_are_refused(arguments: dict[str, object], wanted: str) -> None:
    with pytest.raises(UsageError, match=wanted):
        Batches(**arguments)


@pytest.mark.parametrize(
    ("rows", "masks", "wanted"),
    [
        ([[1, 2, 3, 4], [1, 2, 3, 5]], None, 3),
        ([[1, 2, 3], [1, 2, 3, 5]], None, 2),  # one token of the shorter row stays
        ([[1, 2], [2, 2]], None, 0),
        ([[1, 2, 3]], None, 0),
        ([], None, 0),
        ([[1, 2, 3, 4, 5], [1, 2, 3, 4, 6]], ["....x", "....x"], 3),  # place 3 predicts the first trained token
        ([[1, 2, 3, 4, 5], [1, 2, 3, 4, 6]], ["..xxx", "....x"], 1),
        ([[1, 2, 9, 4, 5], [1, 2, 3, 4, 6]], ["....x", "....x"], 2),
        ([[1, 2, 3], [1, 2, 3]], ["xxx", "..x"], 0),
    ],
)
def test_shared_prefix(rows: list[list[int]], masks: list[str] | None, wanted: int) -> None:
    trained = None if masks is None else [[flag == "x" for flag in mask] for mask in masks]
    assert shared_prefix(rows, trained) == wanted


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=2, max_size=5))
def test_shared_prefix_is_shared_and_the_longest(rows: list[list[int]]) -> None:
    shared = shared_prefix(rows)
    assert len({tuple(row[:shared]) for row in rows}) == 1
    longer = shared + 1
    assert longer >= min(map(len, rows)) or len({tuple(row[:longer]) for row in rows}) > 1
