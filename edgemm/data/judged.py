"""How well each label is told from all others: precision, recall, ROC and precision over recall; and what a report shows of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from edgemm.contracts import task as tasks
from edgemm.contracts.card import Card
from edgemm.contracts.judged_parts import Judged, LabelJudged, Reliability
from edgemm.data import calibration

SPECIFICITY = 0.95
"""Share of the rows without a label that are to be left out where its sensitivity is told."""
CURVES = 12  # labels of an output whose curves a report keeps
POINTS = 64  # of a curve: as many as a chart of 300 pixels can show


def by_label(labels: Sequence[str], chances: np.ndarray, positive: np.ndarray, answered: np.ndarray) -> list[LabelJudged]:
    """Each label against all others.

    Args:
        chances: float (n, labels); only their order counts.
        positive, answered: bool (n, labels): which are true, and which were answered.
    """
    return [_label(name, chances[:, place], positive[:, place], answered[:, place]) for place, name in enumerate(labels)]


def judge(
    kind: str, labels: Sequence[str] | None, logits: np.ndarray, shares: np.ndarray, truth: np.ndarray
) -> tuple[list[LabelJudged], Reliability]:
    """Logits of one label out of several, or of any number at once, label by label.

    Args:
        kind: ``classification`` or ``multilabel``.
        logits, shares: (n, labels); of a series every step is an answer.
        truth: int (n,), or 0 and 1 (n, labels).
    """
    count = logits.shape[1]
    if kind == "classification":
        positive, answered = (place[:, None] == np.arange(count) for place in (truth, logits.argmax(axis=1)))
    else:
        positive, answered = truth > 0.5, logits > 0
    names = labels or tuple(map(str, range(count)))
    return by_label(names, shares, positive, answered), calibration.reliability(kind, logits, truth)


def macro(judged: Sequence[LabelJudged]) -> dict[str, float]:
    """Means over the labels that some rows have and others have not; NaN where there is none."""
    known = [label for label in judged if np.isfinite(label.auroc)]

    def mean(values: list[float]) -> float:
        return float(np.mean(values)) if values else float("nan")

    return {
        "average_precision": mean([label.average_precision for label in known]),
        f"sensitivity_at_specificity_{SPECIFICITY:g}": mean([label.sensitivity for label in known]),
    }


def told(judged: Sequence[LabelJudged]) -> dict[str, dict[str, float | int]]:
    """Label -> its figures without the curves, those that are numbers."""
    figures = ("n", "precision", "recall", "auroc", "average_precision", "sensitivity", "specificity")
    return {label.label: {name: value for name in figures if np.isfinite(value := getattr(label, name))} for label in judged}


def judged(
    card: Card, truth: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]
) -> dict[str, Judged]:
    """Output -> how its labels are told, before and after; only those that answer with labels and were answered."""
    shown: dict[str, Judged] = {}
    for name, task in tasks.tasks(card).items():
        if name not in truth:
            continue
        was, now = (
            task.judged(answers, truth[name]) if all(read in answers for read in task.reads) else None for answers in (before, after)
        )
        if now is not None:
            shown[name] = Judged(_lean(now[0]), now[1], _lean(was[0]) if was else (), was[1] if was else None)
    return shown


def _lean(labels: Sequence[LabelJudged]) -> list[LabelJudged]:
    """Labels with the curves of those that are told worst; the others' would fill a report of a thousand labels."""
    worst = {label.label for label in sorted(labels, key=lambda label: (not np.isfinite(label.auroc), label.auroc))[:CURVES]}
    return [label if label.label in worst else replace(label, roc=(), precision_recall=()) for label in labels]


def _label(name: str, chances: np.ndarray, positive: np.ndarray, answered: np.ndarray) -> LabelJudged:
    there, others = int(positive.sum()), int((~positive).sum())
    right = int((positive & answered).sum())
    precision = right / int(answered.sum()) if answered.any() else float("nan")
    recall = right / there if there else float("nan")
    if not there or not others:
        nothing = float("nan")
        return LabelJudged(name, there, precision, recall, nothing, nothing, nothing, SPECIFICITY)
    order = np.argsort(-chances, kind="stable")
    last_of_equals = np.append(np.flatnonzero(np.diff(chances[order])), len(order) - 1)
    hits = np.append(0, np.cumsum(positive[order])[last_of_equals])
    alarms = np.append(0, np.cumsum(~positive[order])[last_of_equals])
    found, false = hits / there, alarms / others
    sure = hits[1:] / (hits[1:] + alarms[1:])
    area = float((np.diff(false) * (found[1:] + found[:-1])).sum() / 2)  # a tie counts half, as the rank sum has it
    sensitivity = float(found[false <= 1 - SPECIFICITY + 1e-12].max())
    average = float((np.diff(found) * sure).sum())
    pairs = _thinned(found[1:], sure)
    return LabelJudged(name, there, precision, recall, area, average, sensitivity, SPECIFICITY, _thinned(false, found), pairs)


def _thinned(x: np.ndarray, y: np.ndarray) -> list[tuple[float, float]]:
    """At most ``POINTS`` of a curve's points, both ends among them."""
    kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), POINTS)).round().astype(int))
    return [(round(float(x[place]), 5), round(float(y[place]), 5)) for place in kept]
