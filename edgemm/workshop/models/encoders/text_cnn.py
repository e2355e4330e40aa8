"""Word embeddings read by convolutions of several lengths."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgemm.workshop.models.layers.text import token_mask, vocabulary_of
from edgemm.workshop.models.protocols import Encoder, Features


class TextCnn(Encoder):
    """Each kernel looks for its phrases; the strongest hit in the text counts.

    Args:
        embedding: Size of a word's embedding.
        channels: Phrases per kernel length.
        kernels: Lengths in words.
        width: Size of the vector it gives.
        dropout: Share of the hits blanked in training.

    Source: Kim 2014, "Convolutional Neural Networks for Sentence Classification".
    """

    def __init__(
        self,
        features: Features,
        *,
        embedding: int = 64,
        channels: int = 64,
        kernels: tuple[int, ...] = (1, 2, 3),
        width: int = 128,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(features)
        self.width = width
        self.pad = features.pad
        self.embedding = nn.Embedding(vocabulary_of(features, "text_cnn"), embedding)
        self.convolutions = nn.ModuleList(nn.Conv1d(embedding, channels, kernel, padding=kernel // 2) for kernel in kernels)
        self.activation = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(channels * len(kernels), width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        words = self.embedding(x)
        words = (words * token_mask(x, mask, self.pad).unsqueeze(2)).transpose(1, 2)
        hits = [self.activation(convolution(words)).amax(2) for convolution in self.convolutions]
        return self.project(self.dropout(torch.cat(hits, dim=1)))
