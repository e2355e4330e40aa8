"""What tasks whose answer is one label out of several share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgemm.contracts.task import Arrays
from edgemm.data import labels as cells
from edgemm.data import scoring
from edgemm.data.labelled import Labelled
from edgemm.data.scoring import Metric, RowScores


@dataclass(frozen=True)
class OneLabel(Labelled):
    """Logits (n, labels), truth int64 (n,); ``per_step`` puts T after n. Guarded: accuracy."""

    @property
    def is_one_label(self) -> bool:
        return not self.per_step

    def words_in(self, cell: Any) -> Iterable[str]:
        return [] if cells.is_empty(cell) else [cells.word_of(cell)]

    def truth_of(self, cell: Any) -> np.ndarray:
        return np.asarray(cells.index_of(cell, self.labels, self.name), np.int64)

    def agrees(self, answers: Mapping[str, tuple[int, ...]], truth: tuple[int, ...] | None) -> bool:
        return answers[self.name][:-1] == truth

    def statistics(self, answers: Arrays, truth: np.ndarray | None) -> RowScores:
        rows = scoring.mean_of_steps(answers[self.name].argmax(axis=-1) == truth)
        return RowScores(metric=Metric("accuracy"), rows=rows, is_share=True)

    def confusion(self, answers: Arrays, truth: np.ndarray | None) -> np.ndarray | None:
        if truth is None or not self.labels:
            return None
        return scoring.confusion_matrix(answers[self.name].argmax(axis=-1), truth, len(self.labels))

    def shares(self, logits: np.ndarray) -> np.ndarray:
        """Softmax."""
        shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
        shares: np.ndarray = shifted / shifted.sum(axis=-1, keepdims=True)
        return shares
