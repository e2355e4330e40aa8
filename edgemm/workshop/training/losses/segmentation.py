"""Cross entropy of every pixel and the overlap of every label (dice); a teacher's labels by their softened divergence."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgemm.errors import TrainError
from edgemm.workshop.training.loss import Answers, Loss

IGNORED = 255
SMALL = 1.0  # pixels: a label with less of them has no overlap to speak of


class Segmentation(Loss):
    """Scores (N, labels, h, w), drawn to the truth's size as the metric does it."""

    def supervised(self, answers: Answers, truth: Tensor | None) -> Tensor:
        assert truth is not None
        counted = truth != IGNORED
        shares, wanted = self._logits(answers, truth.shape[1:]).log_softmax(1), torch.where(counted, truth, 0).long()
        pixels = counted.sum().clamp(min=1)
        entropy = -(shares.gather(1, wanted.unsqueeze(1)).squeeze(1) * counted).sum() / pixels
        return entropy + self._apart(shares.exp(), wanted, counted)

    def _apart(self, shares: Tensor, wanted: Tensor, counted: Tensor) -> Tensor:
        """1 - dice, the mean over the labels that the batch's truth holds. Source: Milletari et al. 2016, "V-Net"."""
        counts = counted.unsqueeze(1)
        true = torch.zeros_like(shares).scatter_(1, wanted.unsqueeze(1), 1.0) * counts
        shares = shares * counts
        shared, both = (shares * true).sum((0, 2, 3)), (shares + true).sum((0, 2, 3))
        is_there = (true.sum((0, 2, 3)) > 0).float()
        dice = (2 * shared + SMALL) / (both + SMALL)
        return ((1 - dice) * is_there).sum() / is_there.sum().clamp(min=1)

    def imitation(self, student: Answers, teacher: Answers, *, temperature: float) -> Tensor:
        """KL divergence of each pixel's softened labels, times temperature squared; the mean over pixels."""
        theirs = teacher[self.name] / temperature
        ours = self._logits(student, theirs.shape[2:]) / temperature
        apart = F.kl_div(ours.log_softmax(1), theirs.log_softmax(1), log_target=True, reduction="none").sum(1)
        return temperature**2 * apart.mean()

    def foreground(self, teacher: Answers, size: tuple[int, int]) -> Tensor | None:
        """The share of all labels but the first, which is the ground."""
        return F.adaptive_avg_pool2d(1 - teacher[self.name].softmax(1)[:, :1], size).squeeze(1)

    def _logits(self, answers: Answers, size: torch.Size) -> Tensor:
        logits = answers[self.name]
        if logits.dim() != 4 or logits.shape[1] != len(self.output.labels or ()):
            raise TrainError(
                f"output '{self.name}' cannot be learned: it answers in shape {tuple(logits.shape)}.",
                why="it is learned by a score for each label and pixel, and the number of the best label says nothing of the others.",
                fix="return scores (N, labels, height, width).",
            )
        return logits if logits.shape[2:] == size else F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
