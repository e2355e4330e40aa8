"""Which box of one answer is which of another's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgemm.data.boxes import geometry


def nearest(boxes: np.ndarray, scores: np.ndarray, other_boxes: np.ndarray, other_scores: np.ndarray) -> np.ndarray:
    """For each of a set's predictions the one of another set that it is, each taken once, the surest first.

    Two models may say the same in another order: what chooses among candidates by their scores (TopK) does.

    Args:
        boxes, other_boxes: (A, 4) x0 y0 x1 y1.
        scores, other_scores: (A, C).

    Returns:
        int64 (A,), places in the other set: the one with the largest overlap and the most equal scores.
    """
    likeness = geometry.iou(boxes, other_boxes) - np.abs(scores[:, None] - other_scores[None]).sum(axis=2)
    order = np.empty(len(boxes), np.int64)
    for index in np.argsort(-scores.max(axis=1), kind="stable"):
        order[index] = likeness[index].argmax()
        likeness[:, order[index]] = -np.inf
    return order


def pairs(ours: np.ndarray, theirs: np.ndarray, *, iou: float) -> list[tuple[int, int]]:
    """Which of ``ours`` (n, 4) lies on which of ``theirs`` (m, 4): the largest overlap first, each taken once, none below ``iou``."""
    overlaps = geometry.iou(ours, theirs)
    found = list[tuple[int, int]]()
    while overlaps.size and overlaps.max() >= iou:
        one, other = (int(index) for index in np.unravel_index(overlaps.argmax(), overlaps.shape))
        found.append((one, other))
        overlaps[one], overlaps[:, other] = -1.0, -1.0
    return found


def confusion(detections: Sequence[np.ndarray], truth: np.ndarray, thresholds: np.ndarray, *, iou: float = 0.5) -> np.ndarray:
    """How often a box of one label was answered by one of another, or by none; boxes are matched whatever their labels.

    Args:
        detections: For each picture (K, 6): label index, score, x0, y0, x1, y1.
        truth: (pictures, T, 6): label index (-1: none), x0, y0, x1, y1, ignored. What is ignored, and what was found on it, is left out.
        thresholds: Of each label: what scores less was not answered.

    Returns:
        int64 (labels + 1, labels + 1), rows are the truth, columns what was answered; the last of each is nothing.
    """
    nothing = len(thresholds)
    counts = np.zeros((nothing + 1, nothing + 1), np.int64)
    for ours, theirs in zip(detections, truth, strict=True):
        own = ours[ours[:, 1] >= thresholds[ours[:, 0].astype(int)]]
        boxes = theirs[theirs[:, 0] >= 0]
        ignored = {index for index, row in enumerate(boxes) if row[5] > 0}
        found = pairs(own[:, 2:], boxes[:, 1:5], iou=iou)
        for one, other in found:
            counts[int(boxes[other, 0]), int(own[one, 0])] += other not in ignored
        for missed in {*range(len(boxes))} - {other for _, other in found} - ignored:
            counts[int(boxes[missed, 0]), nothing] += 1
        for made_up in {*range(len(own))} - {one for one, _ in found}:
            counts[nothing, int(own[made_up, 0])] += 1
    return counts
