"""A split decoded once and kept in memory, so that every epoch but the first reads no file; too big a split is streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from edgemm.data import Batch, Dataset

MEMORY_BYTES = 1 << 30  # 80,000 pictures of 64 x 64, or 16,000 seconds of sound; leaves room beside torch on an 8 GiB machine
DECODE_ROWS = 64


@dataclass(frozen=True)
class Split:
    """One split of a dataset as shuffled or plain batches.

    Attributes:
        rows: Number of rows (of those in memory: without the skipped ones).
        arrays: All rows decoded; None where the split is streamed.
    """

    dataset: Dataset
    name: str
    rows: int
    arrays: Batch | None

    def batches(self, batch_size: int, *, shuffle: int | None = None) -> Iterator[Batch]:
        """All rows once, in batches; ``shuffle`` is the seed of the order, None the dataset's own order."""
        if self.arrays is None:
            yield from self.dataset.batches(self.name, batch_size, shuffle=shuffle)
            return
        order = np.arange(self.rows) if shuffle is None else np.random.default_rng(shuffle).permutation(self.rows)
        for start in range(0, self.rows, batch_size):
            yield _take(self.arrays, order[start : start + batch_size])


def open_split(
    dataset: Dataset,
    name: str,
    *,
    memory_bytes: int = MEMORY_BYTES,
    progress: Callable[[str, float], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> Split:
    """Decode a split into memory if it fits ``memory_bytes`` (said in a note when it does not).

    Raises:
        DataError: A row cannot be read.
    """
    rows = dataset.count(name)
    if not rows:
        return Split(dataset, name, 0, None)
    first = next(iter(dataset.batches(name, 1, limit=1)))
    needed = rows * sum(array.nbytes for array in _arrays(first).values())
    if needed > memory_bytes:
        if note:
            note(f"{name}: {rows:,} rows would take {needed / 2**30:.1f} GiB decoded; they are read anew in every epoch.")
        return Split(dataset, name, rows, None)
    room = {key: np.empty((rows, *array.shape[1:]), array.dtype) for key, array in _arrays(first).items()}
    filled = 0
    for batch in dataset.batches(name, DECODE_ROWS):
        for key, array in _arrays(batch).items():
            room[key][filled : filled + len(array)] = array
        filled += len(batch.rows)
        if progress:
            progress(f"decoding {name}", filled / rows)
    return Split(dataset, name, filled, _batch({key: array[:filled] for key, array in room.items()}))


def _arrays(batch: Batch) -> dict[tuple[str, str], np.ndarray]:
    fields = {"inputs": batch.inputs, "targets": batch.targets, "present": batch.present}
    return {(field, name): array for field, arrays in fields.items() for name, array in arrays.items()} | {("rows", ""): batch.rows}


def _batch(arrays: dict[tuple[str, str], np.ndarray]) -> Batch:
    def of(field: str) -> dict[str, np.ndarray]:
        return {name: array for (kind, name), array in arrays.items() if kind == field}

    return Batch(inputs=of("inputs"), targets=of("targets"), present=of("present"), rows=arrays["rows", ""])


def _take(batch: Batch, order: np.ndarray) -> Batch:
    return _batch({key: array[order] for key, array in _arrays(batch).items()})
