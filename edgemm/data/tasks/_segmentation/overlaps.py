"""How well masks lie over each other: pixels counted by picture, so that pictures can be drawn anew without looking at a pixel again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgemm.data.scoring import Metric, Resampled, confusion_matrix
from edgemm.data.tasks._segmentation.pixels import label_numbers

IGNORED = 255
"""In a truth: a pixel that does not count."""
AT_ONCE = 1 << 22  # numbers of an answer that are turned into labels at a time: 16 MB


@dataclass(frozen=True, kw_only=True, eq=False)
class Overlaps(Resampled):
    """Mean intersection over union: each label's over all drawn pictures together, then the mean over labels.

    A label whose pixels stand in no drawn picture's truth is left out of the mean; where it is answered all the same, it takes from the
    labels that are there.

    Attributes:
        right, there, answered: float64 (pictures, labels), pixels of a label that were answered with it; that are in the truth; that were
            answered.
        counted: bool (labels,), which of them are in the mean.
    """

    right: np.ndarray
    there: np.ndarray
    answered: np.ndarray
    counted: np.ndarray

    def count(self) -> int:
        return len(self.right)

    def values(self, weights: np.ndarray) -> np.ndarray:
        ious = self.by_label(weights)[:, self.counted]
        known = np.isfinite(ious)
        sums, labels = np.where(known, ious, 0.0).sum(axis=1), known.sum(axis=1)
        return np.where(labels > 0, sums / np.maximum(labels, 1), np.nan)

    def by_label(self, weights: np.ndarray) -> np.ndarray:
        """(draws, pictures) -> (draws, labels); NaN where the truth has no pixel of a label."""
        right, there, answered = (weights @ pixels for pixels in (self.right, self.there, self.answered))
        ious: np.ndarray = np.where(there > 0, right / np.maximum(there + answered - right, 1), np.nan)
        return ious


def overlaps(answers: np.ndarray, truth: np.ndarray, labels: int, *, counts_first: bool) -> Overlaps:
    """The pieces of some answers' mean.

    Args:
        answers, truth: As ``counts`` takes them.
        counts_first: Whether the first label is in the mean.

    Raises:
        MeasureError: As ``label_numbers``.
    """
    right, there, answered = (np.empty((len(truth), labels)) for _ in range(3))
    for row, matrix in enumerate(counts(answers, truth, labels)):
        right[row], there[row], answered[row] = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
    counted = np.ones(labels, bool)
    counted[0] = counts_first
    return Overlaps(metric=Metric("miou"), right=right, there=there, answered=answered, counted=counted)


def counts(answers: np.ndarray, truth: np.ndarray, labels: int) -> Iterator[np.ndarray]:
    """Of one picture after the other int64 (labels, labels): rows are the truth, columns what was answered; ignored pixels are left out.

    Args:
        answers: As ``label_numbers`` takes them.
        truth: uint8 (n, height, width), numbers of labels or ``IGNORED``.

    Raises:
        MeasureError: As ``label_numbers``.
    """
    size: tuple[int, int] = truth.shape[1:]
    planes = int(np.prod(answers.shape[1:-2], dtype=np.int64))
    at_once = max(1, AT_ONCE // (planes * max(int(np.prod(size)), int(np.prod(answers.shape[-2:])))))
    for start in range(0, len(truth), at_once):
        numbers = label_numbers(answers[start : start + at_once], labels, size)
        for answered, true in zip(numbers, truth[start : start + at_once], strict=True):
            is_counted = true != IGNORED
            yield confusion_matrix(answered[is_counted], true[is_counted].astype(np.int64), labels)
