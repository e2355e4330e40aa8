"""How much boxes have in common: float tensors (..., 4), x0 y0 x1 y1."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SMALL = 1e-7


def areas(boxes: Tensor) -> Tensor:
    """(..., 4) -> (...); a box that is turned inside out has none."""
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def iou(ours: Tensor, theirs: Tensor) -> Tensor:
    """What two boxes share, of what they cover together: 0 to 1. The shapes broadcast."""
    sides = (torch.minimum(ours[..., 2:], theirs[..., 2:]) - torch.maximum(ours[..., :2], theirs[..., :2])).clamp(min=0)
    shared = sides[..., 0] * sides[..., 1]
    return shared / (areas(ours) + areas(theirs) - shared + SMALL)


def complete_iou(ours: Tensor, theirs: Tensor) -> Tensor:
    """``iou`` less what the middles are apart and the proportions differ, so that boxes which share nothing are drawn together too; to 1.

    Source: Zheng et al. 2020, "Distance-IoU Loss: Faster and Better Learning for Bounding Box Regression", CIoU.
    """
    shared = iou(ours, theirs)
    around = torch.maximum(ours[..., 2:], theirs[..., 2:]) - torch.minimum(ours[..., :2], theirs[..., :2])
    apart = (ours[..., :2] + ours[..., 2:] - theirs[..., :2] - theirs[..., 2:]) / 2
    distance = apart.square().sum(-1) / (around.square().sum(-1) + SMALL)
    slopes = [torch.atan((box[..., 2] - box[..., 0]) / (box[..., 3] - box[..., 1]).clamp(min=SMALL)) for box in (ours, theirs)]
    shape = 4 / math.pi**2 * (slopes[0] - slopes[1]).square()
    with torch.no_grad():
        weight = shape / (1 - shared + shape + SMALL)
    return shared - distance - weight * shape


def general_iou(ours: Tensor, theirs: Tensor) -> Tensor:
    """``iou`` less the share of the box around both that neither covers: -1 to 1. The shapes broadcast.

    Source: Rezatofighi et al. 2019, "Generalized Intersection over Union".
    """
    shared = iou(ours, theirs)
    around = torch.maximum(ours[..., 2:], theirs[..., 2:]) - torch.minimum(ours[..., :2], theirs[..., :2])
    whole = around[..., 0] * around[..., 1] + SMALL
    both = (areas(ours) + areas(theirs)) / (1 + shared)
    return shared - (whole - both) / whole
