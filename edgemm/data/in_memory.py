"""A split decoded once and kept in memory, so that every epoch but the first reads no file; too big a split is streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np

from edgemm.contracts import task as tasks
from edgemm.contracts.card import Card, Output
from edgemm.contracts.dataset import Batch, Dataset
from edgemm.data.dataset import open_dataset
from edgemm.data.outliers import Channel, clip, outlying
from edgemm.errors import DataError, TrainError

MEMORY_BYTES = 1 << 30  # 80,000 pictures of 64 x 64, or 16,000 seconds of sound; leaves room beside torch on an 8 GiB machine
DECODE_ROWS = 64
LOOKED_AT = 2048  # rows that tell whether some are far out


@dataclass(frozen=True)
class DecodedSplit:
    """One split of a dataset as shuffled or plain batches.

    Attributes:
        rows: Number of rows (of those in memory: without the skipped ones).
        arrays: All rows decoded; None where the split is streamed.
    """

    dataset: Dataset
    name: str
    rows: int
    arrays: Batch | None

    @property
    def is_fixed(self) -> bool:
        """Whether a row is the same sample in every pass; a function that is called anew may make another of it."""
        return self.arrays is not None or self.dataset.is_fixed

    def steps(self, batch_size: int) -> int:
        """How many batches of at least two rows ``batches`` gives; at least 1."""
        return max(1, self.rows // batch_size + (self.rows % batch_size > 1))

    def batches(self, batch_size: int, *, shuffle: int | None = None) -> Iterator[Batch]:
        """All rows once, in batches; ``shuffle`` is the seed of the order, None the dataset's own order."""
        if self.arrays is None:
            yield from self.dataset.batches(self.name, batch_size, shuffle=shuffle)
            return
        order = np.arange(self.rows) if shuffle is None else np.random.default_rng(shuffle).permutation(self.rows)
        for start in range(0, self.rows, batch_size):
            yield take(self.arrays, order[start : start + batch_size])


@dataclass(frozen=True)
class WithUnlabeled(DecodedSplit):
    """A train split with rows of another dataset that have no labels.

    A batch holds rows of one kind. One without labels has no truth, and its rows' numbers are negative (-1 - number).
    """

    unlabeled: DecodedSplit

    @property
    def is_fixed(self) -> bool:
        return self.labeled.is_fixed and self.unlabeled.is_fixed

    def steps(self, batch_size: int) -> int:
        return sum(split.rows // batch_size + (split.rows % batch_size > 1) for split in (self.labeled, self.unlabeled))

    @property
    def labeled(self) -> DecodedSplit:
        return DecodedSplit(self.dataset, self.name, self.rows - self.unlabeled.rows, self.arrays)

    def batches(self, batch_size: int, *, shuffle: int | None = None) -> Iterator[Batch]:
        """All rows of both once; the two kinds of batches take turns in a random order, or the labelled come first."""
        of_kind = [split.batches(batch_size, shuffle=shuffle) for split in (self.labeled, self.unlabeled)]
        turns = np.repeat([0, 1], [-(-split.rows // batch_size) for split in (self.labeled, self.unlabeled)])
        for kind in turns if shuffle is None else np.random.default_rng(shuffle).permutation(turns):
            batch = next(of_kind[kind], None)  # a streamed split may have lost bad rows since they were counted
            if batch is not None:
                yield replace(batch, truth={}, rows=-1 - batch.rows) if kind else batch


def with_unlabeled(train: DecodedSplit, unlabeled: DecodedSplit) -> DecodedSplit:
    """``train`` and beside it ``unlabeled``, whose truth is never looked at."""
    return WithUnlabeled(train.dataset, train.name, train.rows + unlabeled.rows, train.arrays, unlabeled)


@dataclass(frozen=True)
class Clipped(DecodedSplit):
    """A split in whose batches measurements far from all others of their channel are drawn to the nearest of these.

    Attributes:
        channels: Which.
    """

    channels: Sequence[Channel]

    def batches(self, batch_size: int, *, shuffle: int | None = None) -> Iterator[Batch]:
        for batch in super().batches(batch_size, shuffle=shuffle):
            yield replace(batch, inputs=clip(batch.inputs, self.channels))


def without_outliers(split: DecodedSplit) -> Clipped:
    """``split`` with its measurements that are far out clipped, as its first rows in memory tell; ``channels`` is empty where none are."""
    batches = split.batches(DECODE_ROWS, shuffle=0)
    rows = [batch.inputs for batch in islice(batches, LOOKED_AT // DECODE_ROWS)]
    return Clipped(split.dataset, split.name, split.rows, split.arrays, outlying(split.dataset.card, rows))


@dataclass(frozen=True)
class Splits:
    """What a training learns from and is judged on.

    Attributes:
        means, deviations: Output that is a measurement -> mean and standard deviation of its truth in train.
    """

    train: DecodedSplit
    val: DecodedSplit
    means: Mapping[str, float] = field(default_factory=dict)
    deviations: Mapping[str, float] = field(default_factory=dict)


def open_splits(
    dataset: Dataset,
    *,
    unlabeled: Dataset | None = None,
    progress: Callable[[str, float], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> Splits:
    """Decode train and val, as ``open_split`` does.

    Args:
        unlabeled: Rows to learn from beside those of train, their truth unknown; its own train split is taken.

    Raises:
        TrainError: Fewer than two rows to train on.
        DataError: A row cannot be read.
    """
    train = open_split(dataset, "train", progress=progress, note=note)
    if train.rows < 2:
        raise TrainError(
            f"the train split has {train.rows} row{'s' * (train.rows != 1)}.", fix="give at least two rows with split = train."
        )
    val = open_split(dataset, "val", progress=progress, note=note)
    means, deviations = _spreads(dataset.card, train)
    if unlabeled is not None:
        train = with_unlabeled(train, open_split(unlabeled, "train", progress=progress, note=note))
    return Splits(train, val, means, deviations)


def open_unlabeled(data: str | Path, card: Card, *, skip_bad_rows: bool = False) -> Dataset:
    """Open rows whose truth nobody knows: no column is read for any output.

    Raises:
        DataError: As ``open_dataset``; or there is no train split.
    """
    bare = card.replace(outputs={name: Output(name, "tensor") for name in card.outputs})
    opened = open_dataset(data, bare, skip_bad_rows=skip_bad_rows)
    if not opened.count("train"):
        raise DataError(f"unlabeled: {data} has no rows of split 'train'.", fix="add rows with split = train, or leave unlabeled out.")
    return opened


def open_split(
    dataset: Dataset,
    name: str,
    *,
    memory_bytes: int = MEMORY_BYTES,
    progress: Callable[[str, float], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> DecodedSplit:
    """Decode a split into memory if it fits ``memory_bytes`` (said in a note when it does not).

    Raises:
        DataError: A row cannot be read.
    """
    rows = dataset.count(name)
    if not rows:
        return DecodedSplit(dataset, name, 0, None)
    first = next(iter(dataset.batches(name, 1, limit=1)))
    needed = rows * sum(array.nbytes for array in _arrays(first).values())
    if needed > memory_bytes:
        if note:
            note(f"{name}: {rows:,} rows would take {needed / 2**30:.1f} GiB decoded; they are read anew in every epoch.")
        return DecodedSplit(dataset, name, rows, None)
    room = {key: np.empty((rows, *array.shape[1:]), array.dtype) for key, array in _arrays(first).items()}
    filled = 0
    for batch in dataset.batches(name, DECODE_ROWS):
        for key, array in _arrays(batch).items():
            if array.shape[1:] != room[key].shape[1:]:
                shapes = f"{array.shape[1:]}, that of row {first.rows[0]} {room[key].shape[1:]}"
                where = f"{dataset.name}, row {batch.rows[0]}, column '{dataset.card.column(key[1])}'"
                raise DataError(f"{where}: its shape is {shapes}.", why="all rows have one shape.", fix="give each as many values.")
            room[key][filled : filled + len(array)] = array
        filled += len(batch.rows)
        if progress:
            progress(f"decoding {name}", filled / rows)
    return DecodedSplit(dataset, name, filled, _batch({key: array[:filled] for key, array in room.items()}))


def _spreads(card: Card, train: DecodedSplit) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and standard deviation of every measurement's truth in a split (in its first 4,096 rows where it is streamed)."""
    quantities = [name for name, task in tasks.tasks(card).items() if task.is_quantity]
    parts: dict[str, list[np.ndarray]] = {name: [] for name in quantities}
    for number, batch in enumerate(train.batches(256, shuffle=0) if quantities else ()):
        if train.arrays is None and number >= 16:
            break
        for name in quantities:
            parts[name].append(batch.truth[name])
    joined = {name: np.concatenate(values).astype(np.float64) for name, values in parts.items()}
    return {name: float(values.mean()) for name, values in joined.items()}, {
        name: float(values.std()) or 1.0 for name, values in joined.items()
    }


def _arrays(batch: Batch) -> dict[tuple[str, str], np.ndarray]:
    fields = {"inputs": batch.inputs, "truth": batch.truth, "present": batch.present}
    return {(field, name): array for field, arrays in fields.items() for name, array in arrays.items()} | {("rows", ""): batch.rows}


def _batch(arrays: dict[tuple[str, str], np.ndarray]) -> Batch:
    def of(field: str) -> dict[str, np.ndarray]:
        return {name: array for (kind, name), array in arrays.items() if kind == field}

    return Batch(inputs=of("inputs"), truth=of("truth"), present=of("present"), rows=arrays["rows", ""])


def take(batch: Batch, order: np.ndarray) -> Batch:
    """The rows of these places, in this order; new arrays."""
    return _batch({key: array[order] for key, array in _arrays(batch).items()})
