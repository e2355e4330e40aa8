"""Fully connected encoder: sensor vectors, short windows, ready-made features."""

from __future__ import annotations

import math

from torch import Tensor, nn

from edgemm.workshop.models.protocols import Encoder, Features


class Mlp(Encoder):
    """All numbers of a sample in a row through linear layers with ReLU.

    Args:
        hidden: Width of each hidden layer.
        width: Size of the vector it gives.
        dropout: Share of each hidden layer's values blanked in training.
    """

    def __init__(self, features: Features, *, hidden: tuple[int, ...] = (128,), width: int = 128, dropout: float = 0.0) -> None:
        super().__init__(features)
        if features.vocabulary is not None:
            raise features.unfit("mlp", "numbers, not token ids")
        self.width = width
        inside = math.prod(features.shape)
        layers: list[nn.Module] = [nn.Flatten(1)]
        for outside in hidden:
            layers += [nn.Linear(inside, outside), nn.ReLU(), nn.Dropout(dropout)]
            inside = outside
        self.layers = nn.Sequential(*layers, nn.Linear(inside, width))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.layers(x)
