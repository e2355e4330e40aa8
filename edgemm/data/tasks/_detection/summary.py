"""What detections come to, label by label and mistake by mistake, for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgemm.contracts.detection_parts import Found, LabelFound
from edgemm.data.boxes import curves, mistakes
from edgemm.data.boxes.average_precision import MeanPrecision

DIGITS = 4  # of a curve's points: a report is read by people


def found(detections: Sequence[np.ndarray], truth: np.ndarray, matched: MeanPrecision, thresholds: Mapping[str, float]) -> Found:
    """The report's part on boxes.

    Args:
        detections, truth: As ``average_precision.match`` takes them, and made ``matched`` of.
        thresholds: Label -> the score from which it counts, in the order of the labels.
    """
    labels = []
    for (label, threshold), of_label, ap, ap50 in zip(
        thresholds.items(), matched.of_labels, matched.by_label, matched.of([0]), strict=True
    ):
        precision, recall = curves.at_threshold(of_label, threshold)
        curve = [round(float(value), DIGITS) for value in curves.precision_at_recalls(of_label)] if of_label.there.any() else []
        there = int(of_label.there.sum())
        labels.append(LabelFound(label, there, float(ap), float(ap50), threshold, precision, recall, curve))
    return Found(labels, mistakes.kinds(detections, truth, np.array([*thresholds.values()])))
