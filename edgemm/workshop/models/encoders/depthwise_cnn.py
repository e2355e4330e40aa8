"""Depthwise-separable convolutional encoder: few parameters, few operations."""

from __future__ import annotations

from typing import Literal

from torch import nn

from edgemm.workshop.models.layers.encoder import MapEncoder, Pooled, conv_norm, halved, picture_shape
from edgemm.workshop.models.protocols import Features


class DepthwiseCnn(MapEncoder):
    """A plain stem of stride 2, then for each further entry of ``channels`` a depthwise and a 1x1 convolution, the map halved.

    Args:
        channels: Width of the stem and of each block.
        width: Size of the vector it gives.
        pool: ``mean`` over the last map, or ``flatten``, which keeps where things are and costs more parameters.
        input_dropout: Share of the input's cells blanked in training.
        dropout: Share of the last values blanked in training.

    Source: Howard et al. 2017, "MobileNets".
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
        first, high, wide = picture_shape(features, "depthwise_cnn")
        self.width = width
        inside = channels[0]
        layers: list[nn.Module] = [nn.Dropout(input_dropout), conv_norm(first, inside, 3, stride=2), nn.ReLU()]
        for outside in channels[1:]:
            layers += [conv_norm(inside, inside, 3, stride=2, groups=inside), nn.ReLU(), conv_norm(inside, outside, 1), nn.ReLU()]
            inside = outside
        self.layers = nn.Sequential(*layers)
        self.pooled = Pooled(inside, halved(high, len(channels)) * halved(wide, len(channels)), width, pool, dropout)
