"""Cross entropy; a teacher's labels by their softened divergence."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from edgemm.workshop.training.loss import Answers, Loss


class Classification(Loss):
    """The steps of ``per_step`` count one by one. Source of the imitation: Hinton et al. 2015."""

    weighs_labels: ClassVar[bool] = True

    def supervised(self, answers: Answers, truth: Tensor | None) -> Tensor:
        assert truth is not None
        weights = None if self.label_weights is None else self.label_weights.to(truth.device)
        return F.cross_entropy(answers[self.name].flatten(0, -2), truth.flatten(), weight=weights, label_smoothing=self.smoothing)

    def imitation(self, student: Answers, teacher: Answers, *, temperature: float) -> Tensor:
        """KL divergence of the softened labels, times temperature squared so that its gradient keeps its size."""
        ours, theirs = ((logits[self.name] / temperature).flatten(0, -2).log_softmax(-1) for logits in (student, teacher))
        return temperature**2 * F.kl_div(ours, theirs, log_target=True, reduction="batchmean")
