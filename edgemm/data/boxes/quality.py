"""How well a single picture was answered: by which a report chooses the pictures that it shows.

Source: panoptic quality of one picture, Kirillov et al. 2019, "Panoptic Segmentation", of boxes or points in place of outlines.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgemm.data.boxes import geometry
from edgemm.data.boxes.average_precision import IGNORED, LABEL, SCORE

FINDS = 0.5


def of_picture(likeness: np.ndarray) -> float:
    """How alike answers and what is there are, of all that was answered or is there; 1 where nothing is, and nothing was answered.

    Args:
        likeness: (answered, there), the surest answer first; 0 between labels that differ.
    """
    answered, there = likeness.shape
    if not answered + there:
        return 1.0
    free, alike, found = np.ones(there, bool), 0.0, 0
    for own in likeness if there else ():
        best = int(np.where(free, own, -1.0).argmax())
        if free[best] and own[best] >= FINDS:
            free[best], alike, found = False, alike + float(own[best]), found + 1
    return alike / ((answered + there) / 2) if found else 0.0


def of_boxes(detections: Sequence[np.ndarray], truth: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Of each picture's boxes, (pictures,); those that may be found or not are left out.

    Args:
        detections, truth, thresholds: As ``mistakes.kinds`` takes them.
    """
    qualities = []
    for ours, theirs in zip(detections, truth, strict=True):
        own = ours[ours[:, SCORE] >= thresholds[ours[:, LABEL].astype(int)]]
        boxes, ignored = (
            theirs[(theirs[:, LABEL] >= 0) & (theirs[:, IGNORED] == 0)],
            theirs[(theirs[:, LABEL] >= 0) & (theirs[:, IGNORED] > 0)],
        )
        counted = own[geometry.iou(own[:, 2:], ignored[:, 1:5]).max(axis=1, initial=0.0) < FINDS]
        same = counted[:, LABEL, None] == boxes[None, :, LABEL]
        qualities.append(of_picture(np.where(same, geometry.iou(counted[:, 2:], boxes[:, 1:5]), 0.0)))
    return np.array(qualities)
