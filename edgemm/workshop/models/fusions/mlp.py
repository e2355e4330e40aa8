"""Fully connected layers over mapped branches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from edgemm.workshop.models.layers.fusion import Mapped
from edgemm.workshop.models.protocols import Fusion


class Mlp(Fusion):
    """Every branch through a linear layer with ReLU of its own, then all of them through the hidden layers.

    Args:
        map_width: Size to which every branch is mapped.
        hidden: Width of each further layer; the last is the size of the vector it gives.
        dropout: Share of each hidden layer's values blanked in training.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        outputs: Sequence[str],
        *,
        map_width: int = 64,
        hidden: tuple[int, ...] = (128,),
        dropout: float = 0.0,
    ) -> None:
        super().__init__(widths, outputs)
        self.mapped = Mapped(widths, map_width, "mlp")
        self.activation = nn.ReLU()
        layers: list[nn.Module] = []
        self.width = map_width * len(widths)
        for outside in hidden:
            layers += [nn.Linear(self.width, outside), nn.ReLU(), nn.Dropout(dropout)]
            self.width = outside
        self.layers = nn.Sequential(*layers)

    def forward(self, branches: dict[str, Tensor]) -> Tensor:
        return self.layers(self.activation(torch.cat(list(self.mapped(branches).values()), dim=-1)))
