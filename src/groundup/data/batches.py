"""Which rows form which batch: a plan that depends on the seed and the epoch alone, so that a run can go on anywhere.

Rows stand end to end in a batch, without padding; only attention lays them side by side. So the rows of one batch have
near-equal lengths, while the order stays random. An epoch of 8 rows in batches of 2, lengths as shown:

    shuffled          7 2 9 4   3 8 1 6        windows of two batches here, 32 by default
    sorted in each    2 4 7 9   8 6 3 1        every second one backwards: where windows meet, lengths meet
    cut               2 4 | 7 9 | 8 6 | 3 1
    batches shuffled  8 6 | 2 4 | 3 1 | 7 9

A place in it is two numbers, (epoch, batch); the plan of that epoch is made again from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from groundup.core.errors import UsageError

WINDOW = 32  # batches a window: with 8 rows each, 256 neighbours differ by under a hundredth of the spread


class Place(NamedTuple):
    """Where a run stands: the next batch to take."""

    epoch: int
    batch: int


START = Place(0, 0)


class Batch(NamedTuple):
    """The indices of a batch's rows, and the place behind it."""

    rows: tuple[int, ...]
    next: Place


class Batches:
    """The batches of rows that have these lengths (in tokens), `rows_per_batch` or at most `tokens_per_batch` each.

    A row longer than `tokens_per_batch` is a batch of its own. The rows left at the end of an epoch form a smaller
    batch, unless `keep_last=False`. Raises `UsageError` for sizes that make no batch.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        rows_per_batch: int | None = None,
        tokens_per_batch: int | None = None,
        seed: int = 0,
        keep_last: bool = True,
        window: int = WINDOW,
    ) -> None:
        if rows_per_batch is not None and tokens_per_batch is not None:
            raise UsageError("A batch has a number of rows or a number of tokens. Give one of the two.")
        if rows_per_batch is None and tokens_per_batch is None:
            rows_per_batch = 8
        for name, size in (("rows", rows_per_batch), ("tokens", tokens_per_batch)):
            if size is not None and size < 1:
                raise UsageError(f"A batch of {size} {name} is none. Give 1 or more.")
        if not len(lengths):
            raise UsageError("There are no rows to make batches of.")
        if rows_per_batch is not None and not keep_last and len(lengths) < rows_per_batch:
            raise UsageError(f"{len(lengths)} rows make no batch of {rows_per_batch}. Give a smaller batch.")
        if seed < 0:
            raise UsageError(f"The seed is {seed}. Give 0 or more.")
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.rows_per_batch, self.tokens_per_batch = rows_per_batch, tokens_per_batch
        self.seed, self.keep_last = seed, keep_last
        mean = max(1, int(self.lengths.sum()) // len(self.lengths))
        self._window = (rows_per_batch or max(1, (tokens_per_batch or 0) // mean)) * window
        self._planned: tuple[int, list[tuple[int, ...]]] = (-1, [])

    def plan(self, epoch: int) -> list[tuple[int, ...]]:
        """The batches of an epoch in order, each as indices of rows. With tokens, their number may vary by epoch."""
        if self._planned[0] != epoch:
            self._planned = (epoch, self._plan(epoch))
        return self._planned[1]

    def after(self, place: Place = START) -> Iterator[Batch]:
        """Batches without end, from this place on. At once: nothing before it is gone through."""
        epoch, index = place
        if epoch < 0 or index < 0:
            raise UsageError(f"Epoch {epoch}, batch {index} is no place in a run. Both begin at 0.")
        while True:
            plan = self.plan(epoch)
            if index > len(plan):
                raise UsageError(f"Batch {index} of epoch {epoch} does not exist: these rows make {len(plan)}.")
            for at, rows in enumerate(plan[index:], start=index + 1):
                yield Batch(rows, Place(epoch, at) if at < len(plan) else Place(epoch + 1, 0))
            epoch, index = epoch + 1, 0

    def _plan(self, epoch: int) -> list[tuple[int, ...]]:
        # RandomState's stream is frozen by NumPy for good; a newer Generator's may change with the version
        random = np.random.RandomState([self.seed % 2**32, self.seed // 2**32 % 2**32, epoch])
        order = random.permutation(len(self.lengths))
        for number, start in enumerate(range(0, len(order), self._window)):
            window = order[start : start + self._window]
            window = window[np.argsort(self.lengths[window], kind="stable")]
            order[start : start + self._window] = window if number % 2 == 0 else window[::-1]
        batches = self._cut(order.tolist())
        return [batches[i] for i in random.permutation(len(batches))]

    def _cut(self, order: list[int]) -> list[tuple[int, ...]]:
        if self.rows_per_batch is not None:
            size = self.rows_per_batch
            end = len(order) if self.keep_last else len(order) // size * size
            return [tuple(order[start : start + size]) for start in range(0, end, size)]
        limit = self.tokens_per_batch or 0
        batches, batch, tokens = list[tuple[int, ...]](), list[int](), 0
        for row in order:
            length = int(self.lengths[row])
            if batch and tokens + length > limit:
                batches.append(tuple(batch))
                batch, tokens = [], 0
            batch.append(row)
            tokens += length
        if self.keep_last or not batches:
            batches.append(tuple(batch))
        return batches
