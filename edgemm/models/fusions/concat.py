"""Vectors side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from edgemm.models._protocol import Fusion


class Concat(Fusion):
    """The branches' vectors one after another, then one linear layer with ReLU.

    Args:
        width: Size of the vector it gives; None leaves the layer out.
        dropout: Share of its values blanked in training.
    """

    def __init__(self, widths: Mapping[str, int], outputs: Sequence[str], *, width: int | None = 128, dropout: float = 0.0) -> None:
        super().__init__(widths, outputs)
        inside = sum(widths.values())
        self.width = inside if width is None else width
        layers = [] if width is None else [nn.Linear(inside, width), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Dropout(dropout))

    def forward(self, branches: dict[str, Tensor]) -> Tensor:
        return self.layers(torch.cat(list(branches.values()), dim=-1) if len(branches) > 1 else next(iter(branches.values())))
