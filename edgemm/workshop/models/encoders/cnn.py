"""Plain convolutional encoder for pictures and spectrograms."""

from __future__ import annotations

from typing import Literal

from torch import nn

from edgemm.workshop.models.layers.encoder import MapEncoder, Pooled, conv_norm, halved, picture_shape
from edgemm.workshop.models.protocols import Features


class Cnn(MapEncoder):
    """A 3x3 convolution of stride 2 for each entry of ``channels``, each with batch norm and ReLU.

    Args:
        channels: Width of each layer.
        width: Size of the vector it gives.
        pool: ``mean`` over the last map, or ``flatten``, which keeps where things are and costs more parameters.
        input_dropout: Share of the input's cells blanked in training.
        dropout: Share of the last values blanked in training.
    """

    def __init__(
        self,
        features: Features,
        *,
        channels: tuple[int, ...] = (32, 64, 128),
        width: int = 128,
        pool: Literal["mean", "flatten"] = "mean",
        input_dropout: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(features)
        inside, high, wide = picture_shape(features, "cnn")
        self.width = width
        layers: list[nn.Module] = [nn.Dropout(input_dropout)]
        for outside in channels:
            layers += [conv_norm(inside, outside, 3, stride=2), nn.ReLU()]
            inside = outside
        self.layers = nn.Sequential(*layers)
        self.pooled = Pooled(inside, halved(high, len(channels)) * halved(wide, len(channels)), width, pool, dropout)
