"""Cross entropy of scores and complete IoU of boxes, at places chosen by both; a teacher's scores and boxes place by place."""

from __future__ import annotations

from functools import cached_property
from typing import Any, cast

from torch import Tensor

from edgemm.contracts import task as tasks
from edgemm.data.boxes.layout import Layout
from edgemm.workshop.training.loss import Answers, Loss
from edgemm.workshop.training.losses._detection import dense, sets
from edgemm.workshop.training.losses._detection.dense import Answered


class Detection(Loss):
    """Computed of the boxes and probabilities that the card's form stands for, whatever model answers in it."""

    @cached_property
    def layout(self) -> Layout:
        """How the card says that boxes and scores lie in the answer."""
        return cast("Any", tasks.of(self.output)).form

    def supervised(self, answers: Answers, truth: Tensor | None) -> Tensor:
        assert truth is not None
        kind = sets if self.layout.kind == "set" else dense
        return kind.supervised(Answered.of(answers, self.layout), truth, self.layout)

    def imitation(self, student: Answers, teacher: Answers, *, temperature: float) -> Tensor:
        """Nothing is softened: each label is a yes or no of its own, and a teacher that is sure says most."""
        ours, theirs = (Answered.of(answers, self.layout) for answers in (student, teacher))
        return dense.imitation(sets.in_order_of(ours, theirs) if self.layout.kind == "set" else ours, theirs)

    def foreground(self, teacher: Answers, size: tuple[int, int]) -> Tensor | None:
        """The best score of the boxes that cover a cell."""
        return dense.covered(Answered.of(teacher, self.layout), self.layout, size)
