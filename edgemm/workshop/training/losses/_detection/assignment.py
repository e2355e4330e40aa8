"""Which of a dense head's places answers for which true box."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgemm.workshop.training.losses._detection.overlap import SMALL, iou

MOST = 10  # places that answer for one box
SCORE_POWER, OVERLAP_POWER = 0.5, 6.0
"""Of the measure by which they are chosen: those of YOLOv8, where scores are low for long; the paper's are 1 and 6."""


@dataclass(frozen=True)
class Truth:
    """A batch's true boxes, without the padding that all rows share.

    Attributes:
        labels: int64 (N, T); 0 where nothing is.
        boxes: (N, T, 4), xyxy pixels.
        is_there: (N, T), a box to be found.
        is_ignored: (N, T), a box that may be found or not.
    """

    labels: Tensor
    boxes: Tensor
    is_there: Tensor
    is_ignored: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> Truth:
        """From (N, T, 6): label (-1 = padding), x0, y0, x1, y1, ignored."""
        most = int((rows[..., 0] >= 0).sum(1).max()) if rows.numel() else 0
        rows = rows[:, : max(most, 1)]
        is_box, is_ignored = rows[..., 0] >= 0, rows[..., 5] > 0.5
        return cls(rows[..., 0].clamp(min=0).long(), rows[..., 1:5], is_box & ~is_ignored, is_box & is_ignored)


@dataclass(frozen=True)
class Assigned:
    """What each place is to answer.

    Attributes:
        boxes: (N, A, 4), of places that are taken.
        scores: (N, A, C): for its box's label how well the place answers by now, relative to the best place of that box.
        is_taken: (N, A).
        counts: (N, A), False where a place lies in an ignored box and answers for no other: its scores are right whatever they are.
    """

    boxes: Tensor
    scores: Tensor
    is_taken: Tensor
    counts: Tensor


@torch.no_grad()
def assign(boxes: Tensor, scores: Tensor, middles: Tensor, truth: Truth) -> Assigned:
    """For each true box the places within it whose score times overlap is best; a place that several boxes want goes to the nearest one.

    Args:
        boxes: (N, A, 4), xyxy pixels, as answered.
        scores: (N, A, C), probabilities.
        middles: (A, 2), or (N, A, 2): where the places are.

    Source: Feng et al. 2021, "TOOD: Task-Aligned One-Stage Object Detection".
    """
    overlaps = iou(truth.boxes.unsqueeze(2), boxes.unsqueeze(1))  # (N, T, A)
    own = scores.transpose(1, 2).gather(1, truth.labels.unsqueeze(-1).expand(-1, -1, scores.shape[1]))
    inside = _inside(truth.boxes, middles)
    fit = own.clamp(min=SMALL) ** SCORE_POWER * overlaps**OVERLAP_POWER
    candidates = (inside | _nearest(truth.boxes, middles)) & truth.is_there.unsqueeze(-1)
    chosen = candidates & _best(fit.masked_fill(~candidates, -1.0))
    contested = chosen.sum(1, keepdim=True) > 1
    nearest = torch.zeros_like(chosen).scatter_(1, overlaps.masked_fill(~chosen, -1.0).argmax(1, keepdim=True), True)
    chosen = torch.where(contested, chosen & nearest, chosen)
    is_taken, which = chosen.any(1), chosen.int().argmax(1)
    fit, overlaps = fit * chosen, overlaps * chosen
    quality = (fit / fit.amax(2, keepdim=True).clamp(min=SMALL**2) * overlaps.amax(2, keepdim=True)).amax(1)
    labels = truth.labels.gather(1, which)
    wanted = torch.zeros_like(scores).scatter_(2, labels.unsqueeze(-1), (quality * is_taken).unsqueeze(-1))
    ignored = (inside & truth.is_ignored.unsqueeze(-1)).any(1)
    return Assigned(truth.boxes.gather(1, which.unsqueeze(-1).expand(-1, -1, 4)), wanted, is_taken, is_taken | ~ignored)


def _inside(boxes: Tensor, middles: Tensor) -> Tensor:
    """(N, T, A): the place's middle lies in the box."""
    places = middles.unsqueeze(-3)  # (1, A, 2) or (N, 1, A, 2)
    return ((places > boxes[..., None, :2]) & (places < boxes[..., None, 2:])).all(-1)


def _nearest(boxes: Tensor, middles: Tensor) -> Tensor:
    """(N, T, A): the place that is nearest to the box's middle; a box smaller than a cell may hold none."""
    centers = (boxes[..., None, :2] + boxes[..., None, 2:]) / 2
    distance = (middles.unsqueeze(-3) - centers).square().sum(-1)
    return torch.zeros_like(distance, dtype=torch.bool).scatter_(2, distance.argmin(2, keepdim=True), True)


def _best(fit: Tensor) -> Tensor:
    """The ``MOST`` largest along the last axis."""
    most = min(MOST, fit.shape[-1])
    return torch.zeros_like(fit, dtype=torch.bool).scatter_(2, fit.topk(most, 2).indices, True)
