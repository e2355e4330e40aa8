"""A train split whose rows are drawn so that every label comes equally often."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgemm.contracts import task as tasks
from edgemm.contracts.dataset import Batch
from edgemm.data.in_memory import DecodedSplit, take
from edgemm.errors import CardError, DataError


@dataclass(frozen=True)
class Balanced(DecodedSplit):
    """As many rows an epoch as there are, drawn with replacement.

    Attributes:
        chances: float64 (rows,), of each row to be drawn; they add up to 1.
    """

    chances: np.ndarray

    def batches(self, batch_size: int, *, shuffle: int | None = None) -> Iterator[Batch]:
        if shuffle is None or self.arrays is None:
            yield from super().batches(batch_size, shuffle=shuffle)
            return
        order = np.random.default_rng(shuffle).choice(self.rows, self.rows, p=self.chances)
        for start in range(0, self.rows, batch_size):
            yield take(self.arrays, order[start : start + batch_size])


def balanced(split: DecodedSplit, output: str) -> DecodedSplit:
    """``split``, drawn by the labels of an output.

    Raises:
        CardError: Its rows do not have one label each.
        DataError: The split is too big for memory.
    """
    task = tasks.of(split.dataset.card.outputs[output])
    if not task.is_one_label:
        what = f"balance names '{output}', whose rows do not have one label each."
        raise CardError(what, why="rows are drawn by their label.", fix="name a classification that is not per_step, or use class_weights.")
    if split.arrays is None:
        why = "rows are drawn by their label, and this split is read from its files as it comes."
        raise DataError(f"balance: {split.name} does not fit into memory.", why=why, fix=f"use class_weights: {{{output}: balanced}}.")
    truth = split.arrays.truth[output]
    chances = 1.0 / np.bincount(truth)[truth]
    return Balanced(split.dataset, split.name, split.rows, split.arrays, chances / chances.sum())


def label_counts(split: DecodedSplit, output: str, labels: int) -> tuple[np.ndarray, int]:
    """How often each label of an output is true in a split, int64 (labels,), and of how many answers (rows, or their steps)."""
    counts, answers = np.zeros(labels, np.int64), 0
    for batch in split.batches(256):
        truth = batch.truth[output]
        if truth.dtype.kind == "f":  # 0 or 1 for every label
            counts += (truth.reshape(-1, labels) > 0.5).sum(axis=0)
            answers += truth.size // labels
        else:
            counts += np.bincount(truth.reshape(-1), minlength=labels)
            answers += truth.size
    return counts, answers
