"""Any number of labels at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edgemm.contracts.judged_parts import LabelJudged, Reliability
from edgemm.contracts.task import Arrays
from edgemm.data import judged as judging
from edgemm.data import labels as cells
from edgemm.data import scoring
from edgemm.data.labelled import Labelled
from edgemm.data.scoring import Metric, RowScores

SHARED = ("data/labelled.py", "Labelled")
LABELS = "|"
METRIC = {"f1": "Macro F1"}


@dataclass(frozen=True)
class Multilabel(Labelled):
    """Logits and truth float32 (n, labels), truth 0 or 1; ``per_step`` puts T after n. Guarded: macro F1."""

    is_by_sign: ClassVar[bool] = True
    between_steps: ClassVar[str] = ";"

    def words_in(self, cell: Any) -> Iterable[str]:
        if isinstance(cell, np.ndarray) and cell.dtype.kind in "fiub" and not cells.is_empty(cell):
            return [str(index) for index in range(len(cell))]
        return [cells.word_of(item) for item in cells.items(cell, LABELS)]

    def truth_of(self, cell: Any) -> np.ndarray:
        """Labels separated by "|", a list of them, or an array of 0 and 1; an empty cell has none of them."""
        labels = cells.require_labels(self.labels, self.name)
        if isinstance(cell, np.ndarray) and cell.dtype.kind in "fiub" and cell.shape == (len(labels),) and np.isin(cell, (0, 1)).all():
            return cell.astype(np.float32)
        row = np.zeros(len(labels), np.float32)
        for item in cells.items(cell, LABELS):
            row[cells.index_of(item, labels, self.name)] = 1.0
        return row

    def statistics(self, answers: Arrays, truth: np.ndarray | None) -> RowScores:
        """F1 has an influence per row: the first-order change of the score when the row is seen once more (the delta method).

        A label that is neither there nor answered counts as 0, as in torchmetrics.
        """
        assert truth is not None
        rows, labels = len(truth), truth.shape[-1]
        answered, true = answers[self.name] > 0, truth > 0.5
        hit = (answered & true).reshape(rows, -1, labels).sum(axis=1).astype(np.float64)
        size = answered.reshape(rows, -1, labels).sum(axis=1) + true.reshape(rows, -1, labels).sum(axis=1).astype(np.float64)
        mean_size = size.mean(axis=0)
        safe = np.where(mean_size > 0, mean_size, 1.0)
        per_label = 2 * hit.mean(axis=0) / safe
        influence = ((2 * hit - per_label * size) / safe).mean(axis=1)
        return RowScores(metric=Metric("f1"), rows=influence, whole=float(per_label.mean()))

    def further(self, answers: Arrays, truth: np.ndarray | None) -> Mapping[str, float]:
        """Accuracy of all yes and no; macro averages of precision, recall and, over the labels that have both answers, auroc."""
        assert truth is not None
        labels = truth.shape[-1]
        logits, true = answers[self.name].reshape(-1, labels), truth.reshape(-1, labels) > 0.5
        answered = logits > 0
        macro = scoring.precision_recall_f1((answered & true).sum(axis=0), answered.sum(axis=0), true.sum(axis=0))
        del macro["f1"]  # the guarded one
        areas = [scoring.area_under_roc(logits[:, label], true[:, label]) for label in range(labels)]
        told, known = self.judged(answers, truth)
        accuracy = float((answered == true).mean())
        return {"accuracy": accuracy, **macro, "auroc": scoring.mean_of_known(areas), **judging.macro(told), "ece": known.ece}

    def judged(self, answers: Arrays, truth: np.ndarray) -> tuple[Sequence[LabelJudged], Reliability]:
        labels = truth.shape[-1]
        logits = answers[self.name].reshape(-1, labels)
        return judging.judge("multilabel", self.labels, logits, logits, truth.reshape(-1, labels))

    def shares(self, logits: np.ndarray) -> np.ndarray:
        """A sigmoid each."""
        shares: np.ndarray = 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
        return shares
