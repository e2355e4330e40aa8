"""Word embeddings read by an LSTM."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from edgemm.workshop.models.layers.encoder import RecurrentEncoder, require_one_direction
from edgemm.workshop.models.layers.text import token_mask, vocabulary_of
from edgemm.workshop.models.protocols import Features


class TextLstm(RecurrentEncoder):
    """The order of the words counts. Padding is read but never looked at.

    Args:
        embedding: Size of a word's embedding.
        hidden: Size of the LSTM's state.
        layers: LSTM layers.
        bidirectional: Read from both ends; with ``pool: mean`` only, since padding comes first when read backwards.
        width: Size of the vector it gives.
        pool: ``mean`` over the words, or the state at the ``last`` word.
        dropout: Share of the embeddings and of the last values blanked in training.
    """

    def __init__(
        self,
        features: Features,
        *,
        embedding: int = 64,
        hidden: int = 128,
        layers: int = 1,
        bidirectional: bool = False,
        width: int = 128,
        pool: Literal["mean", "last"] = "mean",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(features)
        require_one_direction("text_lstm", pool, bidirectional)
        self.width, self.pool = width, pool
        self.pad = features.pad
        self.embedding = nn.Embedding(vocabulary_of(features, "text_lstm"), embedding)
        self.lstm = nn.LSTM(embedding, hidden, num_layers=layers, batch_first=True, bidirectional=bidirectional)
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(hidden * (2 if bidirectional else 1), width)

    def states(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        words = self.dropout(self.embedding(x))
        return self.lstm(words)[0], token_mask(x, mask, self.pad)
