"""Residual convolutional encoder for pictures and spectrograms."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from edgemm.workshop.models.layers.encoder import MapEncoder, Pooled, conv_norm, halved, picture_shape
from edgemm.workshop.models.protocols import Features


class ResidualCnn(MapEncoder):
    """A stem, then for each entry of ``channels`` one stage of ``blocks`` residual blocks; every stage halves the map.

    Args:
        channels: Width of each stage.
        blocks: Residual blocks in a stage.
        width: Size of the vector it gives.
        pool: ``mean`` over the last map, or ``flatten``, which keeps where things are and costs more parameters.
        input_dropout: Share of the input's cells blanked in training.
        dropout: Share of the last values blanked in training.

    Source: basic block of He et al. 2015, "Deep Residual Learning for Image Recognition".
    """

    def __init__(
        self,
        features: Features,
        *,
        channels: tuple[int, ...] = (32, 64, 128),
        blocks: int = 1,
        width: int = 128,
        pool: Literal["mean", "flatten"] = "mean",
        input_dropout: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(features)
        inside, high, wide = picture_shape(features, "residual_cnn")
        self.width = width
        layers: list[nn.Module] = [nn.Dropout(input_dropout), conv_norm(inside, channels[0], 3), nn.ReLU()]
        inside = channels[0]
        for outside in channels:
            for number in range(blocks):
                layers.append(_Block(inside, outside, stride=2 if number == 0 else 1))
                inside = outside
        self.layers = nn.Sequential(*layers)
        self.pooled = Pooled(inside, halved(high, len(channels)) * halved(wide, len(channels)), width, pool, dropout)


class _Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, inside: int, outside: int, *, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_norm(inside, outside, 3, stride=stride), nn.ReLU(), conv_norm(outside, outside, 3))
        same = stride == 1 and inside == outside
        self.shortcut = nn.Identity() if same else conv_norm(inside, outside, 1, stride=stride)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.body(x) + self.shortcut(x))
