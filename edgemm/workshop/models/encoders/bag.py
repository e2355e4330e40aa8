"""Bag of words: the mean of the words' embeddings."""

from __future__ import annotations

from torch import Tensor, nn

from edgemm.workshop.models.layers.text import masked_mean, token_mask, vocabulary_of
from edgemm.workshop.models.protocols import Encoder, Features


class Bag(Encoder):
    """The order of the words does not count; small, fast, and enough for many questions.

    Args:
        embedding: Size of a word's embedding.
        hidden: Width of the layer between the mean and the vector.
        width: Size of the vector it gives.
        dropout: Share of the mean's values blanked in training.
    """

    def __init__(self, features: Features, *, embedding: int = 64, hidden: int = 128, width: int = 128, dropout: float = 0.0) -> None:
        super().__init__(features)
        self.width = width
        self.pad = features.pad
        self.embedding = nn.Embedding(vocabulary_of(features, "bag"), embedding)
        self.layers = nn.Sequential(nn.Dropout(dropout), nn.Linear(embedding, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        words = self.embedding(x)
        return self.layers(masked_mean(words, token_mask(x, mask, self.pad)))

    def tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        words = self.embedding(x)
        return self.layers(words), token_mask(x, mask, self.pad)
