"""Transformer text encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgemm.workshop.models.attention import TransformerLayer
from edgemm.workshop.models.layers.encoder import StatesEncoder
from edgemm.workshop.models.layers.text import token_mask, vocabulary_of
from edgemm.workshop.models.protocols import Features


class Transformer(StatesEncoder):
    """Word and position embeddings through pre-norm transformer layers, then the mean over the words.

    Args:
        embedding: Size inside.
        layers: Transformer layers.
        heads: Attention heads; divides ``embedding``.
        width: Size of the vector it gives.
        dropout: Share of the values blanked in training.
    """

    def __init__(
        self, features: Features, *, embedding: int = 64, layers: int = 2, heads: int = 4, width: int = 128, dropout: float = 0.0
    ) -> None:
        super().__init__(features)
        self.width = width
        self.pad = features.pad
        self.embedding = nn.Embedding(vocabulary_of(features, "transformer"), embedding)
        self.positions = nn.Parameter(torch.randn(features.shape[0], embedding) * 0.02)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(TransformerLayer(embedding, heads, dropout=dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(embedding)
        self.project = nn.Linear(embedding, width)

    def states(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        words = self.embedding(x)
        counts = token_mask(x, mask, self.pad)
        words = self.dropout(words + self.positions[: x.shape[1]])
        for layer in self.layers:
            words = layer(words, counts)
        return self.norm(words), counts
