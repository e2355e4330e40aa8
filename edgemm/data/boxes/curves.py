"""Precision over recall of one label's detections, as its average precision counts them."""

from __future__ import annotations

import numpy as np

from edgemm.data.boxes.average_precision import RECALLS, OfLabel


def precision_at_recalls(of_label: OfLabel, *, iou: int = 0) -> np.ndarray:
    """The best precision at each of ``RECALLS`` or beyond it; their mean is the average precision at this overlap.

    Args:
        iou: Which of ``IOUS`` a detection has to reach.

    Returns:
        float64 (101,): 0 where a recall is never reached; NaN where no box is to be found.
    """
    total, hits = int(of_label.there.sum()), np.flatnonzero(of_label.hit[iou])
    if not total:
        return np.full(len(RECALLS), np.nan)
    found = np.arange(1, len(hits) + 1)
    precision = found / np.cumsum(of_label.counted[iou])[hits]
    best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    curve: np.ndarray = best[np.searchsorted(found / total, RECALLS)]
    return curve


def at_threshold(of_label: OfLabel, threshold: float, *, iou: int = 0) -> tuple[float, float]:
    """Precision and recall of the detections that score at least ``threshold``; NaN where there is nothing to be right about."""
    told, total = of_label.score >= threshold, int(of_label.there.sum())
    right, counted = int(of_label.hit[iou][told].sum()), int(of_label.counted[iou][told].sum())
    return right / counted if counted else float("nan"), right / total if total else float("nan")
