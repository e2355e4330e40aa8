"""One label out of several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgemm.contracts.decision import Observation
from edgemm.contracts.task import Arrays, Cells, Entity, Labels, Task
from edgemm.data import labels as cells
from edgemm.data import scoring
from edgemm.data.scoring import Metric, RowScores

STEPS = "|"
METRIC = {"accuracy": "Accuracy"}


@dataclass(frozen=True)
class Classification(Task):
    """Logits (n, labels), truth int64 (n,); ``per_step`` puts T after n. Guarded: accuracy.

    Attributes:
        labels: Names of the classes; where there are none, train takes those of its data.
        per_step: One answer a time step; a cell lists its steps, separated by "|".
    """

    labels: Labels | None = None
    per_step: bool = False

    @property
    def answer_width(self) -> int | None:
        return len(self.labels) if self.labels else None

    @property
    def lacks_labels(self) -> bool:
        return not self.labels

    @property
    def is_one_label(self) -> bool:
        return not self.per_step

    def labels_in(self, cell: Any) -> Iterable[str]:
        return [cells.word_of(step) for step in (cells.items(cell, STEPS) if self.per_step else [cell]) if not cells.is_empty(step)]

    def truth(self, cell: Any, row: Cells) -> np.ndarray:
        return cells.by_step(cell, STEPS, self._index) if self.per_step else self._index(cell)

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
        shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        shares = shifted / shifted.sum(axis=1, keepdims=True)
        areas = [scoring.area_under_roc(shares[:, label], truth.reshape(-1) == label) for label in range(logits.shape[1])]
        occurs = answered + there > 0
        macro = scoring.precision_recall_f1(right[occurs], answered[occurs], there[occurs])
        return {**macro, "auroc": scoring.mean_of_known(areas)}

    def confusion(self, answers: Arrays, truth: np.ndarray | None) -> np.ndarray | None:
        if truth is None or not self.labels:
            return None
        return scoring.confusion_matrix(answers[self.name].argmax(axis=-1), truth, len(self.labels))

    def read(self, answers: Arrays) -> Observation:
        """Softmax; of a series its last step."""
        logits = np.atleast_1d(np.asarray(answers[self.name], np.float64)[0])
        logits = logits[-1] if self.per_step else logits
        shifted = np.exp(logits - logits.max())
        return Observation(cells.named(shifted / shifted.sum(), self.labels))

    def entities(self) -> Sequence[Entity]:
        """A switch a label, and the label that leads."""
        return [*(Entity(label, "on_off") for label in self.labels or ()), Entity("scene", "word", self.labels or ())]

    def _index(self, cell: Any) -> np.ndarray:
        return np.asarray(cells.index_of(cell, self.labels, self.name), np.int64)
