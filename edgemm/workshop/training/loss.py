"""What a loss is: how an output of one task is learned, from its truth and from a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from edgemm.contracts import plugins
from edgemm.contracts import task as tasks
from edgemm.contracts.card import Card, Output
from edgemm.errors import CardError

SMALL = 1e-6  # a variance below it is a feature that never changes
Answers = Mapping[str, Tensor]
"""Output name -> (rows, ...)."""


class Loss:
    """The loss of one output; a plugin in ``losses/`` bears its task's name. Answers are by output name: a task may join several.

    Args:
        deviation: Standard deviation of the truth in train where that is a measurement (``Task.is_quantity``), else 1.

    Attributes:
        weighs_labels: ``supervised`` heeds the next two.
        label_weights: What each label counts, float32 (labels,); None = all the same.
        smoothing: Share of the truth that is given to the other labels.
    """

    weighs_labels: ClassVar[bool] = False

    label_weights: Tensor | None = None
    smoothing: float = 0.0

    def __init__(self, output: Output, *, deviation: float = 1.0) -> None:
        self.output, self.name, self.deviation = output, output.name, deviation

    @property
    def learns(self) -> bool:
        """Whether ``supervised`` is there; else the output can only imitate."""
        return True

    def supervised(self, answers: Answers, truth: Tensor | None) -> Tensor:
        """How far answers (float32) are from the truth, a scalar; ``truth`` is None where the task has none."""
        raise NotImplementedError

    def imitation(self, student: Answers, teacher: Answers, *, temperature: float) -> Tensor:
        """How far a student's answers are from its teacher's (both float32), a scalar that is 0 where they are equal.

        Args:
            temperature: Softens both models' answers where they are scores of labels.
        """
        return feature_loss(student[self.name], teacher[self.name], "mse")

    def foreground(self, teacher: Answers, size: tuple[int, int]) -> Tensor | None:
        """How much is to be seen, by a teacher's answers, in each cell of the picture that they are about: (rows, height, width), 0 to 1.

        None where the answers say nothing of places. The picture is that of the output's ``frame``.
        """
        return None


def of(output: Output, *, deviation: float = 1.0) -> Loss:
    """The loss of a card's output.

    Raises:
        CardError: Its task has none.
    """
    if output.task not in plugins.names("losses"):
        raise CardError(
            f"outputs.{output.name}: task '{output.task}' has no loss.",
            why="neither training nor distillation can then say how far an answer is off.",
            fix=f"write {output.task}.py in a folder losses/ of {plugins.OWN}, with one class derived from Loss.",
        )
    return plugins.find(Loss, output.task)(output, deviation=deviation)


def trained_outputs(card: Card) -> list[str]:
    """Outputs that are learned from their truth, or from each other."""
    return [name for name, output in card.outputs.items() if output.task in plugins.names("losses") and of(output).learns]


def supervised_outputs(card: Card) -> list[str]:
    """Those of them that need a column of the dataset."""
    having = tasks.tasks(card)
    return [name for name in trained_outputs(card) if having[name].has_truth]


def feature_loss(student: Tensor, teacher: Tensor, kind: str) -> Tensor:
    """``mse``: squared error in units of the teacher's variance over the batch, so that one weight suits every branch; or 1 - cosine."""
    student, teacher = student.float(), teacher.float()
    if kind == "cosine":
        if student.dim() > 3:  # a picture's channels and places together; of a sequence each token, of a vector all of it
            student, teacher = student.flatten(1), teacher.flatten(1)
        return 1 - F.cosine_similarity(student, teacher, dim=-1).mean()
    spread = (teacher - teacher.mean(0)).square().mean().clamp(min=SMALL)
    return F.mse_loss(student, teacher) / spread
