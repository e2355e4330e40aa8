"""Of boxes that lie over each other the one with the best score: the one implementation for boxes, for metrics and for every target."""

from __future__ import annotations

import numpy as np

from edgemm.data.boxes import geometry

CANDIDATES = 1000
"""Boxes looked at, the best first: sorting what comes after costs more than it finds (450,000 of 8,400 x 80 take 47 ms)."""
NOTHING = np.empty((0, 6), np.float32)


def suppress(boxes: np.ndarray, scores: np.ndarray, *, iou: float, score: float, most: int, candidates: int = CANDIDATES) -> np.ndarray:
    """Greedy non-maximum suppression within each label.

    Args:
        boxes: (A, 4) x0 y0 x1 y1.
        scores: (A, C), 0 to 1.
        iou: Boxes of one label that overlap a better one by more are left out.
        score: What scores less is left out; NaN is.
        most: Boxes that are kept, of all labels together.

    Returns:
        float32 (K, 6): label index, score, x0, y0, x1, y1, the best score first.
    """
    place, label = np.nonzero(scores > score)
    if not len(place):
        return NOTHING
    worth = scores[place, label]
    if len(worth) > candidates:
        best = np.argpartition(-worth, candidates)[:candidates]
        place, label, worth = place[best], label[best], worth[best]
    order = np.lexsort((label, place, -worth))
    order = order[np.isfinite(boxes[place[order]]).all(axis=1)]
    place, label, worth = place[order], label[order], worth[order]
    corners = boxes[place].astype(np.float32)
    kept = _greedy(corners, label, iou, most)
    return _rows(label[kept], worth[kept], corners[kept])


def best(boxes: np.ndarray, scores: np.ndarray, *, score: float, most: int, one_each: bool) -> np.ndarray:
    """The best boxes of a set, which holds each thing once: nothing is suppressed.

    Args:
        boxes, scores, score, most: As ``suppress``.
        one_each: A box has one label, that of its best score (softmax); else each of its scores may count (sigmoid).

    Returns:
        As ``suppress``.
    """
    if one_each:
        place = np.arange(len(scores))
        label = scores.argmax(axis=1)
        worth = scores[place, label]
    else:
        place, label = np.indices(scores.shape).reshape(2, -1)
        worth = scores.reshape(-1)
    order = np.lexsort((label, place, -worth))[:most]
    order = order[worth[order] > score]
    return _rows(label[order], worth[order], boxes[place[order]])


def _greedy(boxes: np.ndarray, label: np.ndarray, iou: float, most: int) -> np.ndarray:
    """Indices of what is kept; boxes of different labels are moved apart so that one pass serves all."""
    extent = float(boxes.max(initial=0) - boxes.min(initial=0)) + 1
    apart = boxes.astype(np.float64) + (label * extent)[:, None]
    areas, left, kept = geometry.area(apart), np.ones(len(apart), bool), []
    for index in range(len(apart)):
        if not left[index]:
            continue
        kept.append(index)
        if len(kept) == most:
            break
        shared = geometry.overlap(apart[index : index + 1], apart[index + 1 :])[0]
        union = areas[index] + areas[index + 1 :] - shared
        left[index + 1 :] &= shared <= iou * union
    return np.array(kept, np.int64)


def _rows(label: np.ndarray, worth: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    return np.column_stack([label, worth, boxes]).astype(np.float32).reshape(-1, 6)
