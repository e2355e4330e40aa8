"""Any number of labels at once."""

from __future__ import annotations

from torch import Tensor

from edgemm.contracts.card import Output
from edgemm.workshop.models.layers.head import layers
from edgemm.workshop.models.protocols import Head, labels_of


class Multilabel(Head):
    """Logits, one a label; the sigmoid of each is that label's probability.

    Args:
        hidden: Width of a layer in between; 0 = none.
        dropout: Share of the last layer's input blanked in training.
    """

    def __init__(self, width: int, output: Output, *, hidden: int = 0, dropout: float = 0.0) -> None:
        super().__init__(width, output)
        self.layers = layers(width, labels_of(output, "multilabel"), hidden, dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
