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

        With names all rows of one name share what is wanted, as in UniCL (Yang et al. 2022, equation 2), and this output's own vectors are
        contrasted with each other too (Khosla et al. 2020, equation 2): a tower learns nothing from one that tells no names apart yet.
        """
        first, second = (F.normalize(answers[name], dim=-1) for name in (self.name, str(self.output.pair)))
        cosine = first @ second.T / TEMPERATURE
        names = torch.arange(len(cosine), device=cosine.device) if truth is None else truth
        right = (names[:, None] == names).to(cosine.dtype)
        wanted = right / right.sum(1, keepdim=True)
        between = (F.cross_entropy(cosine, wanted) + F.cross_entropy(cosine.T, wanted)) / 2
        return between + _within(first, right)

    def imitation(self, student: Answers, teacher: Answers, *, temperature: float) -> Tensor:
        return feature_loss(student[self.name], teacher[self.name], "cosine")


def _within(vectors: Tensor, right: Tensor) -> Tensor:
    """Contrast of each of ``vectors`` (n, d), of length 1, with the others; 0 where no two of them are ``right`` (n, n) for each other."""
    itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    logs = F.log_softmax((vectors @ vectors.T / TEMPERATURE).masked_fill(itself, -1e4), dim=1)
    others = right.masked_fill(itself, 0.0)
    counts = others.sum(1)
    each = -(logs * others).sum(1) / counts.clamp(min=1.0)
    return each.sum() / (counts > 0).sum().clamp(min=1)
