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
        """InfoNCE over a batch of pairs (n, d), (n, d), in both directions. Source: Radford et al. 2021, figure 3.

        With names all rows of one name share what is wanted, as in UniCL (Yang et al. 2022, equation 2).
        """
        first, second = answers[self.name], answers[str(self.output.pair)]
        cosine = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T / TEMPERATURE
        names = torch.arange(len(cosine), device=cosine.device) if truth is None else truth
        right = (names[:, None] == names).to(cosine.dtype)
        wanted = right / right.sum(1, keepdim=True)
        return (F.cross_entropy(cosine, wanted) + F.cross_entropy(cosine.T, wanted)) / 2

    def imitation(self, student: Answers, teacher: Answers, *, temperature: float) -> Tensor:
        return feature_loss(student[self.name], teacher[self.name], "cosine")
