"""Many single rows through a session, several a call where that is proved to answer the same as one a call, and to be faster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np

from edgemm.contracts.dataset import Batch
from edgemm.errors import EdgemmError

Arrays = Mapping[str, np.ndarray]

ROWS = 32
"""Rows a call; most of what a batch saves is saved by then, and a picture of 224 x 224 takes 19 MB."""
MOST_BYTES = 64 << 20
LEAST_SETS = 4  # that are left: the trial costs as much as one
SLOW_S = 0.03  # a row: so long a call is bound by its arithmetic, of which a batch has as much, and more memory
WORTH_S = 1.0  # a runtime compiles a batch anew: what is left has to take longer than that, one row a call
SAME = 1e-5  # of an output's scale: float32 sums in another order. Less than float32 has to answer to the last bit: its roundings flip


class Batching:
    """What a session answers to rows, each as if it had been asked alone.

    Args:
        run: One call.
        rows: How many will be asked about, at most.
        precision: What runs, as ``Session.precision`` says.
    """

    def __init__(self, run: Callable[[Arrays], Arrays], *, rows: int, precision: str) -> None:
        self._run, self._left = run, rows
        self._tolerance = SAME if precision == "f32" else 0.0
        self._single_s = 0.0
        self._is_same: bool | None = None  # not tried yet

    def answers(self, feeds: Sequence[Arrays]) -> list[Arrays]:
        """One answer a feed; every full set of ``ROWS`` may go in one call."""
        self._left -= len(feeds)
        if len(feeds) != ROWS or self._is_same is False:
            return [self._run(feed) for feed in feeds]
        if self._is_same is None:
            return self._first(feeds)
        began = time.perf_counter()
        answers = self._together(feeds)
        self._is_same = time.perf_counter() - began < self._single_s
        return answers

    def _first(self, feeds: Sequence[Arrays]) -> list[Arrays]:
        """One row a call, and the same rows in one where it may pay."""
        began = time.perf_counter()
        alone = [self._run(feed) for feed in feeds]
        self._single_s = time.perf_counter() - began
        if self._left < LEAST_SETS * ROWS or self._left / ROWS * self._single_s < WORTH_S or self._single_s > ROWS * SLOW_S:
            self._is_same = False
            return alone
        try:
            together = self._together(feeds)
            self._is_same = _alike(alone, together, self._tolerance)
        except (EdgemmError, ValueError, IndexError):  # it takes one row a call, or its answers are not by row
            self._is_same = False
        return alone

    def _together(self, feeds: Sequence[Arrays]) -> list[Arrays]:
        if any(array.shape[:1] != (1,) for array in feeds[0].values()):
            raise ValueError("an input without an axis of rows")
        answers = self._run({name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]})
        if any(len(array) != len(feeds) for array in answers.values()):
            raise ValueError("an output without an axis of rows")
        return [{name: array[row : row + 1] for name, array in answers.items()} for row in range(len(feeds))]


def in_sets(batches: Iterable[Batch]) -> Iterator[list[Batch]]:
    """``ROWS`` batches of one row at a time, the last ones fewer; batches of more rows, and large ones, alone."""
    stream = iter(batches)
    for first in stream:
        size = sum(array.nbytes for array in first.inputs.values())
        yield [first, *islice(stream, ROWS - 1 if len(first.rows) == 1 and size * ROWS <= MOST_BYTES else 0)]


def _alike(alone: Sequence[Arrays], together: Sequence[Arrays], tolerance: float) -> bool:
    for name in alone[0]:
        a, b = (np.concatenate([answer[name] for answer in answers]).astype(np.float64) for answers in (alone, together))
        scale = float(np.abs(a[np.isfinite(a)]).max(initial=0.0))
        if a.shape != b.shape or not np.allclose(a, b, rtol=0.0, atol=tolerance * scale, equal_nan=True):
            return False
    return True
