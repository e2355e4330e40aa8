"""Cross entropy over the words; a teacher's words by their softened divergence."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from edgemm.workshop.training.loss import Answers, Loss


class Words(Loss):
    """The words' vectors stay: what is learned is where pictures and sounds lie among them."""

    def supervised(self, answers: Answers, truth: Tensor | None) -> Tensor:
        assert truth is not None
        return F.cross_entropy(answers[self.name].flatten(0, -2), truth.flatten())

    def imitation(self, student: Answers, teacher: Answers, *, temperature: float) -> Tensor:
        ours, theirs = ((logits[self.name] / temperature).flatten(0, -2).log_softmax(-1) for logits in (student, teacher))
        return temperature**2 * F.kl_div(ours, theirs, log_target=True, reduction="batchmean")
