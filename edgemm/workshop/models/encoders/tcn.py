"""Temporal convolutional encoder: sensor series, sound features, raw sound."""

from __future__ import annotations

from torch import Tensor, nn

from edgemm.workshop.models.layers.encoder import AsSeries, series_shape
from edgemm.workshop.models.protocols import Encoder, Features


class Tcn(Encoder):
    """Residual blocks of dilated 1-D convolutions; the dilation doubles with each block.

    Args:
        channels: Width of every block.
        blocks: Number of blocks; the reach is about ``kernel * 2 ** blocks`` steps.
        kernel: Length of a convolution in steps, odd.
        stride: The first convolution shortens the series by this factor (raw sound: 8 or more).
        width: Size of the vector it gives.
        dropout: Share of the last values blanked in training.

    Source: Bai et al. 2018, "An Empirical Evaluation of Generic Convolutional and Recurrent Networks"; here not causal.
    """

    def __init__(
        self,
        features: Features,
        *,
        channels: int = 64,
        blocks: int = 3,
        kernel: int = 5,
        stride: int = 1,
        width: int = 128,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(features)
        inside, _ = series_shape(features, "tcn")
        self.width = width
        stem = nn.Conv1d(inside, channels, max(kernel, stride), stride=stride, padding=max(kernel, stride) // 2, bias=False)
        layers: list[nn.Module] = [AsSeries(features), stem, nn.BatchNorm1d(channels), nn.ReLU()]
        layers += [_Block(channels, kernel, dilation=2**number) for number in range(blocks)]
        self.layers = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(channels, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.project(self.dropout(self.layers(x).mean(2)))

    def tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        return self.project(self.layers(x).transpose(1, 2)), None


class _Block(nn.Module):
    """A dilated convolution beside a shortcut."""

    def __init__(self, channels: int, kernel: int, *, dilation: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(channels, channels, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=False), nn.BatchNorm1d(channels)
        )
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x + self.body(x))
