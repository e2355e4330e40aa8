"""The loss of a set: each true box has one prediction that answers for it, and all others say that nothing is there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from edgemm.data.boxes.layout import Layout
from edgemm.workshop.training.losses._detection.assignment import Truth
from edgemm.workshop.training.losses._detection.dense import Answered, cross_entropy
from edgemm.workshop.training.losses._detection.overlap import general_iou

EDGES, OVERLAP = 5.0, 2.0
"""What edges, of the picture's size, and overlap count beside the label: the weights of DETR, in the choice and in the loss."""
NOTHING = 0.1  # what "nothing is there" counts: most predictions say it


def supervised(answered: Answered, rows: Tensor, layout: Layout) -> Tensor:
    """The label's likelihood, distance of the edges and overlap, over the cheapest pairs of predictions and true boxes.

    Source: Carion et al. 2020, "End-to-End Object Detection with Transformers".
    """
    truth = Truth.of(rows)
    size = answered.boxes.new_tensor([layout.width, layout.height] * 2).clamp(min=1)
    row, query, box = pairs(answered, truth, size)
    wanted = torch.zeros_like(answered.scores)
    wanted[row, query, truth.labels[row, box]] = 1.0
    loss = _labels(answered.scores, wanted, layout)
    many = max(len(row), 1)
    ours, theirs = answered.boxes[row, query], truth.boxes[row, box]
    apart = ((ours - theirs) / size).abs().sum(-1)
    return loss + (EDGES * apart + OVERLAP * (1 - general_iou(ours, theirs))).sum() / many


@torch.no_grad()
def pairs(answered: Answered, truth: Truth, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, predictions and true boxes of the pairs that together cost least."""
    ours, theirs = answered.boxes.unsqueeze(2), truth.boxes.unsqueeze(1)
    own = answered.scores.gather(2, truth.labels.unsqueeze(1).expand(-1, ours.shape[1], -1))
    cost = EDGES * ((ours - theirs) / size).abs().sum(-1) - OVERLAP * general_iou(ours, theirs) - own
    costs, is_there = cost.cpu().numpy(), truth.is_there.cpu().numpy()
    chosen = [
        (row, query, boxes[number])
        for row, boxes in enumerate(map(np.flatnonzero, is_there))
        for number, query in enumerate(cheapest(costs[row][:, boxes].T))
        if query >= 0
    ]
    device = answered.boxes.device
    columns = np.array(chosen, np.int64).reshape(-1, 3).T
    row, query, box = (torch.from_numpy(column.copy()).to(device) for column in columns)
    return row, query, box


def in_order_of(student: Answered, teacher: Answered) -> Answered:
    """The student's predictions, each in the place of the teacher's that it is most like: the best come first in both, and not the same."""
    with torch.no_grad():
        ours, theirs = student.boxes.unsqueeze(1), teacher.boxes.unsqueeze(2)
        apart = (student.scores.unsqueeze(1) - teacher.scores.unsqueeze(2)).abs().sum(-1)
        costs = (apart - OVERLAP * general_iou(ours, theirs)).cpu().numpy()
        order = torch.from_numpy(np.stack([cheapest(row) for row in costs])).to(student.boxes.device)
    boxes, scores = (
        answered.gather(1, order.unsqueeze(-1).expand(-1, -1, answered.shape[-1])) for answered in (student.boxes, student.scores)
    )
    return replace(student, boxes=boxes, scores=scores)


def cheapest(costs: np.ndarray) -> np.ndarray:
    """For each row of (rows, columns) a column of its own, so that the sum is least; -1 for rows beyond the number of columns.

    Source: the Hungarian method with shortest augmenting paths (Jonker and Volgenant 1987).
    """
    rows, columns = costs.shape
    if rows > columns:
        found = cheapest(costs.T)
        chosen = np.full(rows, -1)
        chosen[found] = np.arange(columns)
        return chosen
    owner = np.full(columns + 1, -1)  # row of each column; the last column is where the search begins
    of_row, of_column = np.zeros(rows), np.zeros(columns + 1)
    for row in range(rows):
        owner[columns], here = row, columns
        least, before = np.full(columns, np.inf), np.full(columns, columns)
        seen = np.zeros(columns + 1, bool)
        while owner[here] >= 0:
            seen[here] = True
            reduced = costs[owner[here]] - of_row[owner[here]] - of_column[:columns]
            better = ~seen[:columns] & (reduced < least)
            least[better], before[better] = reduced[better], here
            nearest = int(np.where(seen[:columns], np.inf, least).argmin())
            step = least[nearest]
            of_row[owner[seen]] += step
            of_column[seen] -= step
            least[~seen[:columns]] -= step
            here = nearest
        while here != columns:
            owner[here] = owner[before[here]]
            here = before[here]
    chosen = np.full(rows, -1)
    chosen[owner[:columns][owner[:columns] >= 0]] = np.flatnonzero(owner[:columns] >= 0)
    return chosen


def _labels(scores: Tensor, wanted: Tensor, layout: Layout) -> Tensor:
    """Cross entropy: of labels that exclude each other with what is left of 1 for nothing, else of each label by itself."""
    if layout.nothing is None:
        return cross_entropy(scores, wanted).sum() / wanted.sum().clamp(min=1)
    shares = torch.cat([scores, 1 - scores.sum(-1, keepdim=True)], -1).clamp(min=1e-7)
    asked = torch.cat([wanted, 1 - wanted.sum(-1, keepdim=True)], -1)
    weights = asked[..., :-1].sum(-1) * (1 - NOTHING) + NOTHING
    return -((asked * shares.log()).sum(-1) * weights).sum() / weights.sum()
