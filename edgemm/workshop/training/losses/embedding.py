"""Contrast of a pair's rows with each other; a teacher's vectors by their direction."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgemm.workshop.training.loss import Answers, Loss, feature_loss

TEMPERATURE = 0.07  # the start value of CLIP (Radford et al. 2021), which then learns it


class Embedding(Loss):
    """An embedding without a pair has no truth: it can only imitate."""

    @property
    def learns(self) -> bool:
        return self.output.pair is not None

    def supervised(self, answers: Answers, truth: Tensor | None) -> Tensor:
        """InfoNCE over a batch of pairs (n, d), (n, d), in both directions. Source: Radford et al. 2021, figure 3."""
        first, second = answers[self.name], answers[str(self.output.pair)]
        cosine = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T / TEMPERATURE
        own = torch.arange(len(cosine), device=cosine.device)
        return (F.cross_entropy(cosine, own) + F.cross_entropy(cosine.T, own)) / 2

    def imitation(self, student: Answers, teacher: Answers, *, temperature: float) -> Tensor:
        return feature_loss(student[self.name], teacher[self.name], "cosine")
