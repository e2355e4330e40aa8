"""Vectors side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from edgemm.workshop.models.layers.fusion import BranchDropout
from edgemm.workshop.models.protocols import Fusion


class Concat(Fusion):
    """The branches' vectors one after another, then one linear layer with ReLU.

    Args:
        width: Size of the vector it gives; None leaves the layer out.
        dropout: Share of its values blanked in training.
        branch_dropout: Share of the samples in which a whole branch is blanked in training, each branch on its own.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        outputs: Sequence[str],
        *,
        width: int | None = 128,
        dropout: float = 0.0,
        branch_dropout: float = 0.0,
    ) -> None:
        super().__init__(widths, outputs)
        inside = sum(widths.values())
        self.width = inside if width is None else width
        layers = [] if width is None else [nn.Linear(inside, width), nn.ReLU()]
        self.blank = BranchDropout(branch_dropout)
        self.layers = nn.Sequential(*layers, nn.Dropout(dropout))

    def forward(self, branches: dict[str, Tensor]) -> Tensor:
        vectors = list(self.blank(branches).values())
        return self.layers(torch.cat(vectors, dim=-1) if len(vectors) > 1 else vectors[0])
