"""Contrast between the inputs of a row: what was seen and what was heard at once is to be told from all else in the batch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemm.workshop.training.branch_vectors import BranchVectors
from edgemm.workshop.training.task_losses import Tensors

WIDTH = 128  # of the space in which inputs are compared: SimCLR's, table 8 of Chen et al. 2020 finds 32 to 2,048 alike
FIRST, SHARPEST = 1 / 0.07, 100.0
"""1 / temperature: CLIP's start, and the limit it keeps while it learns it (Radford et al. 2021, section 2.5)."""


class Contrast(nn.Module):
    """The loss of a model's branches against each other: a ``LossHook`` whose own weights (projectors, temperature) are trained along.

    Rows that lack one of two inputs have no part in comparing these.

    Args:
        branches: Listens to the model; at least two inputs.

    Source: Radford et al. 2021, "CLIP", figure 3, of every pair of inputs; the projectors are those of Chen et al. 2020, "SimCLR", 4.2.
    """

    def __init__(self, branches: BranchVectors) -> None:
        super().__init__()
        self._branches = branches
        self.projectors = nn.ModuleDict({f"of {name}": _projector(width) for name, width in branches.widths.items()})
        self.sharpness = nn.Parameter(torch.tensor(math.log(FIRST)))

    def forward(self, outputs: Mapping[str, Tensor], batch: Tensors) -> dict[str, Tensor]:
        """A part for each pair of inputs, ``image and audio``; their sum is divided by how many pairs there are."""
        rows = len(batch.rows)
        units = {name: F.normalize(self.projectors[f"of {name}"](x), dim=1) for name, x in self._branches.read(rows).items()}
        pairs = list(itertools.combinations(units, 2))
        return {f"{one} and {other}": self._pair(units, one, other, batch) / len(pairs) for one, other in pairs}

    def _pair(self, units: Mapping[str, Tensor], one: str, other: str, batch: Tensors) -> Tensor:
        there = [batch.present[name] for name in (one, other) if name in batch.present]
        first, second = units[one], units[other]
        if there:
            both = torch.stack(there).all(0)
            first, second = first[both], second[both]
        if len(first) < 2:
            return 0.0 * (first.sum() + second.sum())
        alike = first @ second.T * self.sharpness.exp().clamp(max=SHARPEST)
        own = torch.arange(len(alike), device=alike.device)
        return (F.cross_entropy(alike, own) + F.cross_entropy(alike.T, own)) / 2


def _projector(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, max(width, WIDTH)), nn.GELU(), nn.Linear(max(width, WIDTH), WIDTH))
