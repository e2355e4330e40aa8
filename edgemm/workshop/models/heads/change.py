"""Change detection over a sequence of steps."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from edgemm.contracts.card import Output
from edgemm.workshop.models.layers.head import layers
from edgemm.workshop.models.protocols import Head, labels_of


class Change(Head):
    """An LSTM over the fused vectors of all steps: logits for each step (``per_step: true``), else one answer at the last step.

    Multilabel outputs read the same logits through a sigmoid.

    Args:
        hidden: Size of the LSTM's state.
        dropout: Share of the last layer's input blanked in training.
    """

    takes_sequence: ClassVar[bool] = True

    def __init__(self, width: int, output: Output, *, hidden: int = 64, dropout: float = 0.0) -> None:
        super().__init__(width, output)
        self.per_step = output.per_step
        self.lstm = nn.LSTM(width, hidden, batch_first=True)
        self.layers = layers(hidden, labels_of(output, "change"), 0, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, steps, width) -> (N, steps, labels), or (N, labels)."""
        states = self.lstm(x)[0]
        return self.layers(states if self.per_step else states[:, -1])
