"""What tasks whose answer is told by names of classes share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edgemm.contracts.decision import Observation
from edgemm.contracts.task import Arrays, Cells, Entity, Labels, Task
from edgemm.data import labels as cells


@dataclass(frozen=True)
class Labelled(Task):
    """Logits (n, labels); ``per_step`` puts T after n. A plugin gives ``truth_of``, ``words_in`` and ``shares``.

    Attributes:
        between_steps: What separates the steps of a cell.
        labels: Names of the classes; where there are none, train takes those of its data.
        per_step: One answer a time step; a cell lists its steps, separated by "|", those of several labels by ";".
    """

    between_steps: ClassVar[str] = "|"

    labels: Labels | None = None
    per_step: bool = False

    @property
    def answer_width(self) -> int | None:
        return len(self.labels) if self.labels else None

    @property
    def lacks_labels(self) -> bool:
        return not self.labels

    def words_in(self, cell: Any) -> Iterable[str]:
        """Names of the labels in a cell, or in one step of it."""
        raise NotImplementedError

    def truth_of(self, cell: Any) -> np.ndarray:
        """``truth`` of a cell, or of one step of it."""
        raise NotImplementedError

    def shares(self, logits: np.ndarray) -> np.ndarray:
        """Float64 logits (..., labels) -> probabilities of the same shape."""
        raise NotImplementedError

    def labels_in(self, cell: Any) -> Iterable[str]:
        return [word for step in (cells.items(cell, self.between_steps) if self.per_step else [cell]) for word in self.words_in(step)]

    def truth(self, cell: Any, row: Cells) -> np.ndarray:
        return cells.by_step(cell, self.between_steps, self.truth_of) if self.per_step else self.truth_of(cell)

    def read(self, answers: Arrays) -> Observation:
        """Each label's probability; of a series its last step."""
        logits = np.atleast_1d(np.asarray(answers[self.name], np.float64)[0])
        return Observation(cells.named(self.shares(logits[-1] if self.per_step else logits), self.labels))

    def entities(self) -> Sequence[Entity]:
        """A switch a label, and the label that leads."""
        return [*(Entity(label, "on_off") for label in self.labels or ()), Entity("scene", "word", self.labels or ())]
