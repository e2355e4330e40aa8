"""How near answered points are to true ones: object keypoint similarity (OKS), and the share of points that are near enough (PCK)."""

from __future__ import annotations

import numpy as np

LABEL, BOX, POINTS = 0, slice(1, 5), 5
"""Columns of a truth's row: label number (-1 = none), edges of the box, then x, y and visibility of each point."""
AREA = 0.53
"""Share of its box that an object fills, where no outline says: what COCO's people do on average."""
NEAR = 0.1  # PCK@0.1


def points_of(truth: np.ndarray) -> np.ndarray:
    """(objects, 5 + 3 * points) -> (objects, points, 3): x, y and visibility."""
    return truth[:, POINTS:].reshape(len(truth), (truth.shape[1] - POINTS) // 3, 3)


def oks(answered: np.ndarray, truth: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """OKS of each answered object with each true one, (answered, true), 0 to 1.

    The mean over the known points of exp(-d^2 / (2 s^2 k^2)), where d is the distance, s^2 the object's area and k twice the point's sigma.
    Of an object without a known point it is how near the points are to its box, drawn twice as large around it.

    Args:
        answered: (objects, points, 2 or more), x and y.
        truth: (objects, 5 + 3 * points).
        sigmas: (points,).

    Source: cocoeval of the COCO API (Lin et al.), whose numbers these are.
    """
    places = points_of(truth).astype(np.float64)
    known = np.asarray(places[..., 2] > 0)
    off = answered[:, None, :, :2].astype(np.float64) - places[None, ..., :2]
    boxes = truth[:, BOX].astype(np.float64)
    unknown: np.ndarray = np.logical_not(known.any(axis=1))
    if unknown.any():
        off[:, unknown] = _beyond(answered[..., :2].astype(np.float64), boxes[unknown])
    areas = AREA * np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    errors = np.square(off).sum(axis=-1) / np.square(2 * sigmas) / (areas[:, None] + np.spacing(1)) / 2
    counted: np.ndarray = np.logical_or(known, unknown[:, None])
    similar: np.ndarray = np.where(counted, np.exp(-errors), 0.0).sum(axis=-1) / counted.sum(axis=1)
    return similar


def _beyond(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(answered, points, 2) and (true, 4) -> (answered, true, points, 2): how far outside of a box three times as wide and as high."""
    sides = boxes[:, 2:] - boxes[:, :2]
    low, high = (edges[None, :, None] for edges in (boxes[:, :2] - sides, boxes[:, 2:] + sides))
    there = points[:, None]
    outside: np.ndarray = np.maximum(low - there, 0) + np.maximum(there - high, 0)
    return outside


def near(answered: np.ndarray, truth: np.ndarray, similar: np.ndarray) -> tuple[int, int]:
    """Of the known points of a picture's true objects: how many an answer is near to, and how many there are.

    The best answers choose first, each the object it is most like; near is within ``NEAR`` of the longer side of the object's box.

    Args:
        answered: (objects, points, 3), the best first.
        similar: OKS, (answered, true), 0 between labels that differ.

    Source: Yang & Ramanan 2013, "Articulated Human Detection with Flexible Mixtures of Parts".
    """
    places = points_of(truth)
    known, right, free = np.asarray(places[..., 2] > 0), 0, np.ones(len(truth), bool)
    reach = NEAR * (truth[:, 3:5] - truth[:, 1:3]).max(axis=1, initial=0.0)
    for one, likeness in zip(answered, similar, strict=True):
        wanted = np.where(free, likeness, 0.0)
        if not wanted.any():
            continue
        best = int(wanted.argmax())
        free[best] = False
        distances = np.hypot(*(one[:, :2] - places[best, :, :2]).T)
        right += int((known[best] & (distances <= reach[best])).sum())
    return right, int(known.sum())
