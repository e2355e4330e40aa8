"""An LSTM over sound features or a sensor series."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from edgemm.workshop.models.layers.encoder import AsSeries, RecurrentEncoder, require_one_direction, series_shape
from edgemm.workshop.models.protocols import Features


class Lstm(RecurrentEncoder):
    """Reads log-mel or MFCC frame by frame.

    Args:
        hidden: Size of the state.
        layers: LSTM layers.
        bidirectional: Read from both ends.
        width: Size of the vector it gives.
        pool: ``mean`` over time, or ``last`` state.
        input_dropout: Share of the channels (mel bands) blanked in training, each for the whole sample.
        dropout: Share of the last values blanked in training.
    """

    def __init__(
        self,
        features: Features,
        *,
        hidden: int = 128,
        layers: int = 1,
        bidirectional: bool = False,
        width: int = 128,
        pool: Literal["mean", "last"] = "mean",
        input_dropout: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(features)
        channels, _ = series_shape(features, "lstm")
        require_one_direction("lstm", pool, bidirectional)
        self.width, self.pool = width, pool
        self.series = nn.Sequential(AsSeries(features), nn.BatchNorm1d(channels), nn.Dropout1d(input_dropout))
        self.lstm = nn.LSTM(channels, hidden, num_layers=layers, batch_first=True, bidirectional=bidirectional)
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(hidden * (2 if bidirectional else 1), width)

    def states(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return self.lstm(self.series(x).transpose(1, 2))[0], None
