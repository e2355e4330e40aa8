"""A model's answer -> the label of every pixel, in whatever size is asked."""

from __future__ import annotations

import numpy as np

from edgemm.errors import MeasureError


def label_numbers(answers: np.ndarray, labels: int, size: tuple[int, int]) -> np.ndarray:
    """The label of every pixel of pictures of ``size`` (height, width).

    Scores in another size are resized before the greatest is taken, as a box would that draws them; numbers by the nearest.

    Args:
        answers: (n, labels, h, w) scores, of whatever scale; or (n, h, w), (n, 1, h, w) numbers of labels.

    Returns:
        int64 (n, height, width).

    Raises:
        MeasureError: Numbers that are none of a label.
    """
    if are_scores(answers.shape, labels):
        numbers: np.ndarray = resized(answers, size).argmax(axis=1)
        return numbers
    plain = answers.reshape(len(answers), *answers.shape[-2:])
    numbers = plain.astype(np.int64)
    wrong = (numbers < 0) | (numbers >= labels) | (numbers != plain)
    if wrong.any():
        raise MeasureError(
            f"a mask holds {plain[wrong][0]:g}, which is no label's number.",
            why=f"it has no axis for scores, so its values are numbers of labels, 0 to {labels - 1}.",
            fix="answer with a score a label and pixel, (n, labels, height, width), or with the number of the best label.",
        )
    rows, columns = (_nearest(had, wanted) for had, wanted in zip(numbers.shape[1:], size, strict=True))
    return numbers[:, rows[:, None], columns]


def are_scores(shape: tuple[int, ...], labels: int) -> bool:
    """Whether an answer of this shape has a score a label, and no number of a label."""
    return len(shape) == 4 and shape[1] == labels


def resized(scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(..., h, w) -> (..., height, width), bilinear between middles of pixels, as torch's ``interpolate`` and ONNX's half_pixel do it."""
    for axis, wanted in ((-2, size[0]), (-1, size[1])):
        had = scores.shape[axis]
        if had == wanted:
            continue
        places = np.clip((np.arange(wanted) + 0.5) * (had / wanted) - 0.5, 0, had - 1)
        low = np.minimum(places.astype(np.int64), max(had - 2, 0))
        share = (places - low).astype(np.float32)
        share = share[:, None] if axis == -2 else share
        below, above = (np.take(scores, np.minimum(low + step, had - 1), axis=axis) for step in (0, 1))
        scores = below + (above - below) * share
    return scores


def _nearest(had: int, wanted: int) -> np.ndarray:
    """Of each wanted pixel the one that its middle lies in."""
    return np.minimum(((np.arange(wanted) + 0.5) * (had / wanted)).astype(np.int64), had - 1)
