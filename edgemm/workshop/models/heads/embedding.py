"""A unit vector to compare with others: retrieval."""

from __future__ import annotations

from torch import Tensor, nn

from edgemm.contracts.card import Output
from edgemm.workshop.models.protocols import Head


class Embedding(Head):
    """A linear projection to length 1; the dot product of two is their cosine similarity.

    Args:
        size: Size of the vector; the outputs of a pair need the same. None = that of what it is made of, without a projection.
        dropout: Share of the projection's input blanked in training.
    """

    def __init__(self, width: int, output: Output, *, size: int | None = 128, dropout: float = 0.0) -> None:
        super().__init__(width, output)
        self.layers = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, size)) if size else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        vector = self.layers(x)
        return vector / vector.square().sum(-1, keepdim=True).clamp(min=1e-12).sqrt()
