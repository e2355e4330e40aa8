"""Convolutions over time, then a GRU: sound and sensor series."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from edgemm.workshop.models.layers.encoder import AsSeries, RecurrentEncoder, require_one_direction, series_shape
from edgemm.workshop.models.protocols import Features


class ConvGru(RecurrentEncoder):
    """Strided 1-D convolutions shorten the series, a GRU reads what is left.

    Args:
        channels: Width of each convolution.
        kernel: Its length in steps, odd.
        stride: Each convolution shortens the series by this factor.
        hidden: Size of the GRU's state.
        bidirectional: Read the series from both ends.
        width: Size of the vector it gives.
        pool: ``mean`` over time, or ``last`` state.
        input_dropout: Share of the channels (mel bands) blanked in training, each for the whole sample.
        dropout: Share of the values blanked in training, before and after the GRU.
    """

    def __init__(
        self,
        features: Features,
        *,
        channels: tuple[int, ...] = (64, 64),
        kernel: int = 5,
        stride: int = 2,
        hidden: int = 96,
        bidirectional: bool = False,
        width: int = 128,
        pool: Literal["mean", "last"] = "mean",
        input_dropout: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(features)
        inside, _ = series_shape(features, "conv_gru")
        require_one_direction("conv_gru", pool, bidirectional)
        self.width, self.pool = width, pool
        layers: list[nn.Module] = [AsSeries(features), nn.Dropout1d(input_dropout)]
        for outside in channels:
            convolution = nn.Conv1d(inside, outside, kernel, stride=stride, padding=kernel // 2, bias=False)
            layers += [convolution, nn.BatchNorm1d(outside), nn.ReLU()]
            inside = outside
        self.layers = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.gru = nn.GRU(inside, hidden, batch_first=True, bidirectional=bidirectional)
        self.project = nn.Linear(hidden * (2 if bidirectional else 1), width)

    def states(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return self.gru(self.dropout(self.layers(x).transpose(1, 2)))[0], None
