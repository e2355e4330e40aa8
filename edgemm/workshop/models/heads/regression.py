"""A number, or several."""

from __future__ import annotations

from torch import Tensor

from edgemm.contracts.card import Output
from edgemm.workshop.models.layers.head import layers
from edgemm.workshop.models.protocols import Head


class Regression(Head):
    """Numbers in the output's unit.

    Args:
        size: How many numbers; 1 gives (N,), more give (N, size).
        hidden: Width of a layer in between; 0 = none.
        dropout: Share of the last layer's input blanked in training.
    """

    def __init__(self, width: int, output: Output, *, size: int = 1, hidden: int = 0, dropout: float = 0.0) -> None:
        super().__init__(width, output)
        self.layers = layers(width, size, hidden, dropout)
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        numbers = self.layers(x)
        return numbers.squeeze(-1) if self.size == 1 else numbers
