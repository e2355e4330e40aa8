"""The loss of a dense head, whose places all answer; and what such a head learns from another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from edgemm.data.boxes import forms
from edgemm.data.boxes.forms import Raw
from edgemm.data.boxes.layout import Layout
from edgemm.data.boxes.shapes import PYRAMIDS
from edgemm.workshop.training.losses._detection.assignment import Assigned, Truth, assign
from edgemm.workshop.training.losses._detection.overlap import complete_iou
from edgemm.workshop.training.losses._detection.torch_space import TORCH

BOX, DISTRIBUTION = 7.5 / 0.5, 1.5 / 0.5
"""What an edge counts beside a score: the weights of YOLOv8 (7.5, 1.5 and 0.5)."""
LEAST = 0.05  # of a box in the loss of edges: a place that covers nothing of its box yet has a score to reach of 0, and moves all the same
SURE = 0.3  # score from which a teacher's box is learned
COVERING = 100  # boxes of a picture: what COCO counts
LEAST_SCORE, MOST_SCORE = 1e-12, 1 - 6e-8  # float32 knows no number nearer to 1, and the logarithm of 0 is none


@dataclass(frozen=True)
class Answered:
    """What a dense head answered: boxes (N, A, 4) xyxy pixels, scores (N, A, C) probabilities, and the numbers they were made of."""

    boxes: Tensor
    scores: Tensor
    raw: Raw

    @classmethod
    def of(cls, answers: Mapping[str, Tensor], layout: Layout) -> Answered:
        raw = forms.raw(answers, layout, TORCH)
        return cls(forms.corners(raw, layout, TORCH), forms.probabilities(raw, layout, TORCH), raw)


def supervised(answered: Answered, rows: Tensor, layout: Layout) -> Tensor:
    """Scores by cross entropy, edges by complete IoU, and of form ``dfl`` each edge's distribution; a mean over the true boxes.

    Args:
        rows: The truth, (N, T, 6).

    Source: Feng et al. 2021, "TOOD"; Li et al. 2020, "Generalized Focal Loss", for distributions.
    """
    truth = Truth.of(rows)
    middles = middles_of(answered, layout)
    assigned = assign(answered.boxes.detach(), answered.scores.detach(), middles, truth)
    many = assigned.scores.sum().clamp(min=1.0)
    apart = cross_entropy(answered.scores, assigned.scores).sum(-1)
    loss = (apart * assigned.counts).sum() / many
    weights = assigned.scores.amax(-1).clamp(min=LEAST)[assigned.is_taken]
    if not len(weights):
        return loss
    shared = complete_iou(answered.boxes[assigned.is_taken], assigned.boxes[assigned.is_taken])
    loss = loss + BOX * ((1 - shared) * weights).sum() / many
    if layout.form == "dfl":
        loss = loss + DISTRIBUTION * (_distribution(answered, assigned, layout) * weights).sum() / many
    return loss


def imitation(student: Answered, teacher: Answered) -> Tensor:
    """Scores by divergence, each place weighing what the surer of both says there; boxes by complete IoU where the teacher is sure.

    Almost all places are empty, and would drown the others; where the student sees what the teacher does not they count, too.
    """
    best = teacher.scores.amax(-1)
    sure = torch.maximum(best, student.scores.detach().amax(-1))
    many = best.sum().clamp(min=1.0)
    apart = cross_entropy(student.scores, teacher.scores) - cross_entropy(teacher.scores, teacher.scores)
    loss = (apart.sum(-1) * sure).sum() / many
    taught = best > SURE
    if not bool(taught.any()):
        return loss
    shared, itself = (complete_iou(boxes[taught], teacher.boxes[taught]) for boxes in (student.boxes, teacher.boxes))
    return loss + BOX * ((itself - shared) * best[taught]).sum() / many


def covered(answered: Answered, layout: Layout, size: tuple[int, int]) -> Tensor:
    """(N, high, wide): the best score above ``SURE`` of the ``COVERING`` best boxes over each cell of a grid on the picture."""
    high, wide = size
    best, which = answered.scores.amax(-1).topk(min(COVERING, answered.scores.shape[1]), 1)
    boxes = answered.boxes.gather(1, which.unsqueeze(-1).expand(-1, -1, 4))
    y, x = (torch.arange(count, device=boxes.device) + 0.5 for count in (high, wide))
    across, down = x * (layout.width / wide), y * (layout.height / high)
    in_rows = (down > boxes[..., 1:2]) & (down < boxes[..., 3:4])  # (N, K, high)
    in_columns = (across > boxes[..., 0:1]) & (across < boxes[..., 2:3])
    worth = best * (best > SURE)
    return (in_rows.unsqueeze(3) & in_columns.unsqueeze(2)).mul(worth[..., None, None]).amax(1)


def cross_entropy(scores: Tensor, wanted: Tensor) -> Tensor:
    """Of probabilities, each a yes or no of its own; the shapes stay. torch's own refuses to compute under autocast."""
    return -(wanted * scores.clamp(min=LEAST_SCORE).log() + (1 - wanted) * torch.log1p(-scores.clamp(max=MOST_SCORE)))


def middles_of(answered: Answered, layout: Layout) -> Tensor:
    """Pixels of the places, (A, 2), by the card's strides, else by the pyramid of as many; else the boxes' middles, (N, A, 2)."""
    boxes = answered.boxes
    count = boxes.shape[1]
    for strides in (layout.strides,) if layout.strides else PYRAMIDS:
        if sum(high * wide for high, wide in map(layout.grid, strides)) == count:
            middles, _ = forms.places(replace(layout, strides=strides), answered.raw.grids, count)
            return TORCH.constant(middles, boxes)
    return (boxes[..., :2] + boxes[..., 2:]).detach() / 2


def _distribution(answered: Answered, assigned: Assigned, layout: Layout) -> Tensor:
    """(places taken,): cross entropy of each edge's bins with the two between which its true distance lies; the mean of the four."""
    middles, strides = (
        TORCH.constant(array, answered.boxes) for array in forms.places(layout, answered.raw.grids, answered.boxes.shape[1])
    )
    unit = {"stride": strides[:, None], "pixels": torch.ones_like(strides[:, None])}.get(
        layout.unit, strides.new_tensor([[layout.width, layout.height]]).expand(len(strides), 2)
    )
    sides = torch.cat([(middles - assigned.boxes[..., :2]) / unit, (assigned.boxes[..., 2:] - middles) / unit], -1)[assigned.is_taken]
    sides = sides.clamp(0, layout.bins - 1.01)
    below = sides.floor()
    shares = answered.raw.boxes[assigned.is_taken].reshape(-1, 4, layout.bins).log_softmax(-1)
    low, high = (shares.gather(-1, index.long().unsqueeze(-1)).squeeze(-1) for index in (below, below + 1))
    return -(low * (below + 1 - sides) + high * (sides - below)).mean(-1)
