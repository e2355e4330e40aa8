"""One label out of several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgemm.contracts.judged_parts import LabelJudged, Reliability
from edgemm.contracts.task import Arrays
from edgemm.data import judged as judging
from edgemm.data import labels as cells
from edgemm.data import scoring
from edgemm.data.labelled import Labelled
from edgemm.data.scoring import Metric, RowScores

SHARED = ("data/labelled.py", "Labelled")
METRIC = {"accuracy": "Accuracy"}


@dataclass(frozen=True)
class Classification(Labelled):
    """Logits (n, labels), truth int64 (n,); ``per_step`` puts T after n. Guarded: accuracy."""

    @property
    def is_one_label(self) -> bool:
        return not self.per_step

    @property
    def takes_one_logit(self) -> bool:
        return True

    def words_in(self, cell: Any) -> Iterable[str]:
        return [] if cells.is_empty(cell) else [cells.word_of(cell)]

    def truth_of(self, cell: Any) -> np.ndarray:
        return np.asarray(cells.index_of(cell, self.labels, self.name), np.int64)

    def agrees(self, answers: Mapping[str, tuple[int, ...]], truth: tuple[int, ...] | None) -> bool:
        return answers[self.name][:-1] == truth

    def statistics(self, answers: Arrays, truth: np.ndarray | None) -> RowScores:
        rows = scoring.mean_of_steps(answers[self.name].argmax(axis=-1) == truth)
        return RowScores(metric=Metric("accuracy"), rows=rows, is_share=True)

    def further(self, answers: Arrays, truth: np.ndarray | None) -> Mapping[str, float]:
        """Macro averages: precision, recall and f1 over the labels that occur anywhere, auroc over those that some rows have, not all."""
        assert truth is not None
        logits = answers[self.name].reshape(-1, answers[self.name].shape[-1])
        right, answered, there = scoring.hits(logits.argmax(axis=1), truth.reshape(-1), logits.shape[1])
        shares = self.shares(logits.astype(np.float64))
        areas = [scoring.area_under_roc(shares[:, label], truth.reshape(-1) == label) for label in range(logits.shape[1])]
        occurs = answered + there > 0
        macro = scoring.precision_recall_f1(right[occurs], answered[occurs], there[occurs])
        labels, known = self.judged(answers, truth)
        return {**macro, "auroc": scoring.mean_of_known(areas), **judging.macro(labels), "ece": known.ece}

    def judged(self, answers: Arrays, truth: np.ndarray) -> tuple[Sequence[LabelJudged], Reliability]:
        logits = answers[self.name].reshape(-1, answers[self.name].shape[-1])
        return judging.judge("classification", self.labels, logits, self.shares(logits.astype(np.float64)), truth.reshape(-1))

    def confusion(self, answers: Arrays, truth: np.ndarray | None) -> np.ndarray | None:
        if truth is None or not self.labels:
            return None
        return scoring.confusion_matrix(answers[self.name].argmax(axis=-1), truth, len(self.labels))

    def shares(self, logits: np.ndarray) -> np.ndarray:
        """Softmax."""
        shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
        shares: np.ndarray = shifted / shifted.sum(axis=-1, keepdims=True)
        return shares
