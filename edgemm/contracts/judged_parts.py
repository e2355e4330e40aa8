"""What a report tells of a training and of answers label by label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Reliability:
    """How far chances mean what they say.

    Attributes:
        ece: Expected calibration error, 0 to 1.
        points: A bin each: how sure the answers in it are, how often they are right, how many they are.
    """

    ece: float
    points: Sequence[tuple[float, float, int]] = ()


@dataclass(frozen=True)
class AugmentedInput:
    """Rows of an input, each as it is and then as a training changed it: addresses of pictures (``data:``), or words."""

    input: str
    rows: Sequence[Sequence[str]] = ()


@dataclass(frozen=True)
class LabelJudged:
    """How well one label of an output is told from all others.

    Attributes:
        n: Answers of which it is true.
        sensitivity: Recall at the threshold at which ``specificity`` of the others are left out.
        roc: Points (false positives, true positives), shares from 0 to 1; ``precision_recall``: (recall, precision).
    """

    label: str
    n: int
    precision: float
    recall: float
    auroc: float
    average_precision: float
    sensitivity: float
    specificity: float
    roc: Sequence[tuple[float, float]] = ()
    precision_recall: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Judged:
    """An output's answers, label by label, and how far its chances mean what they say; ``before`` is the original's, where it is known."""

    after: Sequence[LabelJudged]
    known: Reliability
    before: Sequence[LabelJudged] = ()
    known_before: Reliability | None = None
