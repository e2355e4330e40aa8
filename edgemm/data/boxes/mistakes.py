"""What is wrong with detections, sorted into kinds.

Source: the kinds of Bolya et al., TIDE: A General Toolbox for Identifying Object Detection Errors (2020), at their overlaps of 0.5 and 0.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgemm.contracts.detection_parts import BACKGROUND, BOTH, DOUBLE, KINDS, LOOSE, MISSED, RIGHT, WRONG_LABEL
from edgemm.data.boxes import geometry
from edgemm.data.boxes.average_precision import IGNORED, LABEL, SCORE

FINDS, TOUCHES = 0.5, 0.1


def kinds(detections: Sequence[np.ndarray], truth: np.ndarray, thresholds: np.ndarray) -> dict[str, int]:
    """How often each of ``KINDS`` is the case.

    Detections take boxes of their label as mean average precision has them do: the surest first, each box once. What lies on an ignored
    box of its label is left out.

    Args:
        detections: For each picture (K, 6): label index, score, x0, y0, x1, y1.
        truth: (pictures, T, 6): label index (-1: none), x0, y0, x1, y1, ignored.
        thresholds: Of each label: what scores less was not answered.
    """
    counts = dict.fromkeys(KINDS, 0)
    for ours, theirs in zip(detections, truth.astype(np.float64), strict=True):
        ours = ours.astype(np.float64)
        own = ours[ours[:, SCORE] >= thresholds[ours[:, LABEL].astype(int)]]
        for kind in _of_picture(own[np.argsort(-own[:, SCORE], kind="stable")], theirs[theirs[:, LABEL] >= 0]):
            counts[kind] += 1
    return counts


def _of_picture(own: np.ndarray, theirs: np.ndarray) -> list[str]:
    """The kind of each detection that counts, and one ``MISSED`` for each box that was missed."""
    is_ignored = theirs[:, IGNORED] > 0
    boxes, crowds = theirs[~is_ignored], theirs[is_ignored]
    overlaps, same = geometry.iou(own[:, 2:], boxes[:, 1:5]), own[:, LABEL, None] == boxes[None, :, LABEL]
    taken = _taken(np.where(same, overlaps, 0.0))
    inside = geometry.overlap(own[:, 2:], crowds[:, 1:5]) / np.maximum(geometry.area(own[:, 2:]), 1e-9)[:, None]
    on_crowd = ((inside >= FINDS) & (own[:, LABEL, None] == crowds[None, :, LABEL])).any(axis=1)
    told, covered = list[str](), np.isin(np.arange(len(boxes)), taken)
    for overlap, is_same, box, is_left_out in zip(overlaps, same, taken, on_crowd, strict=True):
        if box < 0 and is_left_out:
            continue
        kind = RIGHT if box >= 0 else _wrong(overlap, is_same)
        told.append(kind)
        if kind in (LOOSE, WRONG_LABEL):
            covered[np.where(is_same == (kind == LOOSE), overlap, -1.0).argmax()] = True
    return told + [MISSED] * int((~covered).sum())


def _taken(overlaps: np.ndarray) -> np.ndarray:
    """Which box each detection finds, -1 for none; among equal overlaps the later box."""
    free, taken = np.ones(overlaps.shape[1], bool), np.full(len(overlaps), -1)
    for index, overlap in enumerate(overlaps):
        able = np.where(free & (overlap >= FINDS), overlap, -1.0)
        if len(able) and able.max() > 0:
            taken[index] = len(able) - 1 - able[::-1].argmax()
            free[taken[index]] = False
    return taken


def _wrong(overlap: np.ndarray, is_same: np.ndarray) -> str:
    """The kind of a detection that found no box that was free."""
    own = float(np.where(is_same, overlap, 0.0).max(initial=0.0))
    other = float(np.where(is_same, 0.0, overlap).max(initial=0.0))
    if TOUCHES <= own < FINDS:
        return LOOSE
    if other >= FINDS:
        return WRONG_LABEL
    if own >= FINDS:
        return DOUBLE
    return BOTH if other >= TOUCHES else BACKGROUND
