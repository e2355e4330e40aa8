"""Binary cross entropy of every label; a teacher's labels by the softened divergence of each one's yes and no."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from edgemm.workshop.training.loss import Answers, Loss


class Multilabel(Loss):
    """The mean over labels, steps and rows; a label's weight counts where it is true."""

    weighs_labels: ClassVar[bool] = True

    def supervised(self, answers: Answers, truth: Tensor | None) -> Tensor:
        assert truth is not None
        weights = None if self.label_weights is None else self.label_weights.to(truth.device)
        wanted = truth * (1 - self.smoothing) + self.smoothing / 2
        return F.binary_cross_entropy_with_logits(answers[self.name], wanted, pos_weight=weights)

    def imitation(self, student: Answers, teacher: Answers, *, temperature: float) -> Tensor:
        """KL divergence of each label's softened yes and no, times temperature squared."""
        ours, theirs = student[self.name] / temperature, teacher[self.name] / temperature
        soft = torch.sigmoid(theirs)
        return temperature**2 * (F.binary_cross_entropy_with_logits(ours, soft) - F.binary_cross_entropy_with_logits(theirs, soft))
