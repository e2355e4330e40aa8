"""Smooth L1 of the error in standard deviations of the truth, so that a head in dB and one in Hz weigh alike."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from edgemm.workshop.training.loss import Answers, Loss


class Regression(Loss):
    """Numbers of any size."""

    def supervised(self, answers: Answers, truth: Tensor | None) -> Tensor:
        assert truth is not None
        return F.smooth_l1_loss(answers[self.name].reshape(truth.shape) / self.deviation, truth / self.deviation)

    def imitation(self, student: Answers, teacher: Answers, *, temperature: float) -> Tensor:
        """Squared error in standard deviations of the truth."""
        theirs = teacher[self.name]
        return F.mse_loss(student[self.name].reshape(theirs.shape) / self.deviation, theirs / self.deviation)
