"""Cross entropy of heat maps with bells around the true points, and of what a middle says the distance to each; a teacher's maps alike."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from edgemm.contracts import task as tasks
from edgemm.contracts.card import Output
from edgemm.errors import TrainError
from edgemm.workshop.training.loss import Answers, Loss

WIDTH = 1.0  # cells: standard deviation of the bell around a point or a middle
CELLS = 2 * math.pi * WIDTH**2  # that a bell fills: a place then counts about as much as a pixel does in a mask
NEAR = 0.3  # of a middle's bell: cells from which the distances to the points are learned
OFFSETS = 0.1  # weight of a cell's error in distance beside the maps: distances are tens of cells
SHARE = 0.1  # of all of it, so that it is about as large as other outputs' losses: a mask learned beside it found no circles without
SURE = 1e-4


class Maps(NamedTuple):
    """Parts of an answer: logits of middles (N, labels, h, w) and of points (N, points, h, w), distances (N, points, 2, h, w)."""

    centres: Tensor | None
    points: Tensor
    offsets: Tensor | None


class Keypoints(Loss):
    """Of layouts ``heatmaps`` and ``centres``; a ``list`` can only imitate."""

    def __init__(self, output: Output, *, deviation: float = 1.0) -> None:
        super().__init__(output, deviation=deviation)
        task = tasks.of(output)
        self.form = task.form  # type: ignore[attr-defined]  # of the task of this name

    @property
    def learns(self) -> bool:
        return bool(self.form.layout != "list")

    def supervised(self, answers: Answers, truth: Tensor | None) -> Tensor:
        assert truth is not None
        ours = self._maps(answers)
        high, wide = ours.points.shape[2:]
        known = truth[:, : max(1, int((truth[..., 0] >= 0).sum(1).max()))]
        steps = known.new_tensor([self.form.width / wide, self.form.height / high])
        places = known[..., 5:].unflatten(-1, (-1, 3))
        is_known = (places[..., 2] > 0) & (known[..., :1] >= 0)
        bells = _bells(places[..., :2] / steps, (high, wide)) * is_known[..., None, None]  # (N, T, points, h, w)
        many = CELLS * is_known.any(-1).sum().clamp(min=1)
        loss = _apart(ours.points, bells.amax(1)) / (CELLS * is_known.sum().clamp(min=1))
        if ours.centres is None or ours.offsets is None:
            return SHARE * loss
        middles = (known[..., 1:3] + known[..., 3:5]) / 2 / steps
        around = _bells(middles, (high, wide)) * is_known.any(-1)[..., None, None]  # (N, T, h, w)
        of_label = (
            known[..., 0].long().clamp(min=0)[..., None, None, None] == torch.arange(self.form.labels, device=known.device)[:, None, None]
        )
        loss = loss + _apart(ours.centres, (around.unsqueeze(2) * of_label).amax(1)) / many
        return SHARE * (loss + OFFSETS * _distances(ours.offsets, places[..., :2] / steps, is_known, around) / many)

    def imitation(self, student: Answers, teacher: Answers, *, temperature: float) -> Tensor:
        """Nothing is softened: each place is a yes or no of its own. Distances count where the teacher sees a middle."""
        if not self.learns:
            return super().imitation(student, teacher, temperature=temperature)
        ours, theirs = self._maps(student), self._maps(teacher)
        many = CELLS * theirs.points.sigmoid().amax((2, 3)).sum().clamp(min=1)
        loss = (_apart(ours.points, theirs.points.sigmoid()) - _apart(theirs.points, theirs.points.sigmoid())) / many
        if ours.centres is None or theirs.centres is None or ours.offsets is None or theirs.offsets is None:
            return SHARE * loss
        sure = theirs.centres.sigmoid()
        loss = loss + (_apart(ours.centres, sure) - _apart(theirs.centres, sure)) / many
        off = (ours.offsets - theirs.offsets).abs().mean((1, 2))
        return SHARE * (loss + OFFSETS * (off * sure.amax(1)).sum() / many)

    def foreground(self, teacher: Answers, size: tuple[int, int]) -> Tensor | None:
        """The surest point or middle within a cell; None of a ``list``."""
        if not self.learns:
            return None
        maps = self._maps(teacher)
        seen = maps.points if maps.centres is None else torch.cat([maps.points, maps.centres], 1)
        return F.adaptive_max_pool2d(seen.sigmoid().amax(1, keepdim=True), size).squeeze(1)

    def _maps(self, answers: Answers) -> Maps:
        answer = answers[self.name]
        if not self.form.fits(tuple(answer.shape)):
            raise TrainError(
                f"output '{self.name}' has shape {tuple(answer.shape)}.",
                why=f"layout: {self.form.layout} wants {self.form.channels} maps: (N, {self.form.channels}, height, width).",
                fix="mend the card's labels, points and layout, or what the model returns.",
            )
        labels, points = (self.form.labels if self.form.layout == "centres" else 0), self.form.points
        maps = answer[:, : labels + points]
        logits = maps if self.form.scores == "sigmoid" else torch.logit(maps, eps=SURE)
        if not labels:
            return Maps(None, logits, None)
        return Maps(logits[:, :labels], logits[:, labels:], answer[:, labels + points :].unflatten(1, (points, 2)))


def _bells(places: Tensor, size: tuple[int, int]) -> Tensor:
    """(..., 2), x and y in cells from the map's edge -> (..., h, w), 1 at the very place."""
    rows, columns = (torch.arange(side, device=places.device) + 0.5 for side in size)
    down, across = ((places[..., axis, None] - cells).square() for axis, cells in ((1, rows), (0, columns)))
    return torch.exp(-(down.unsqueeze(-1) + across.unsqueeze(-2)) / (2 * WIDTH**2))


def _apart(logits: Tensor, wanted: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")


def _distances(offsets: Tensor, places: Tensor, is_known: Tensor, around: Tensor) -> Tensor:
    """Summed over cells near a middle, weighed by how near: how wrong they are, on average over the points, about those of its object.

    Args:
        offsets: (N, points, 2, h, w).
        places: (N, T, points, 2) in cells.
        around: (N, T, h, w), the bells of the middles.
    """
    nearness, which = around.max(1)
    high, wide = nearness.shape[1:]
    cells = torch.stack(torch.meshgrid(*(torch.arange(side, device=places.device) + 0.5 for side in (high, wide)), indexing="ij")).flip(0)
    index = which.flatten(1)[..., None, None].expand(-1, -1, *places.shape[2:])
    wanted = places.gather(1, index).unflatten(1, (high, wide)).permute(0, 3, 4, 1, 2) - cells
    counted = is_known.gather(1, index[..., 0]).unflatten(1, (high, wide)).permute(0, 3, 1, 2)
    off = ((offsets - wanted).abs().sum(2) * counted).sum(1) / counted.sum(1).clamp(min=1)
    return (off * nearness * (nearness > NEAR)).sum()
