"""A picture as feature maps of several strides: for what says where things are."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from edgemm.contracts.modality import PICTURE_AXES
from edgemm.errors import CardError
from edgemm.workshop.models.layers.c2f import C2f, conv_relu
from edgemm.workshop.models.layers.encoder import as_picture, picture_shape
from edgemm.workshop.models.protocols import Encoder, Features, Maps


class C2fEncoder(Encoder):
    """A 3x3 convolution of stride 2 for each entry of ``channels``, behind all but the first a block of split and joined convolutions.

    Its vector is the mean over the last map.

    Args:
        channels: Width of each stage; the last is the size of the vector.
        blocks: Residual blocks in a stage.
        levels: How many stages, from the last one back, give a map. Of four stages the last two have strides 8 and 16.
        input_dropout: Share of the input's cells blanked in training.

    Raises:
        CardError: More levels than stages.
    """

    def __init__(
        self,
        features: Features,
        *,
        channels: tuple[int, ...] = (16, 32, 64, 96),
        blocks: int = 1,
        levels: int = 2,
        input_dropout: float = 0.0,
    ) -> None:
        super().__init__(features)
        inside, high, wide = picture_shape(features, "c2f")
        if not 1 <= levels <= len(channels):
            raise CardError(
                f"inputs.{features.name}: encoder 'c2f' cannot give maps of {levels} stages.",
                why=f"it has {len(channels)}.",
                fix="write as many levels as there are entries in channels, or fewer.",
            )
        self.first = nn.Sequential(nn.Dropout(input_dropout), conv_relu(inside, channels[0], 3, stride=2))
        self.stages = nn.ModuleList(
            nn.Sequential(conv_relu(before, after, 3, stride=2), C2f(after, after, blocks)) for before, after in pairwise(channels)
        )
        self.width, self.levels = channels[-1], levels
        if features.axes == PICTURE_AXES:
            strides = tuple(2 ** (number + 1) for number in range(len(channels)))
            self.maps = Maps(features.name, (high, wide), strides[-levels:], tuple(channels[-levels:]))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.pyramid(x)[-1].mean((2, 3))

    def tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        return self.pyramid(x)[-1].flatten(2).transpose(1, 2), None

    def pyramid(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = [self.first(as_picture(x))]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return tuple(maps[-self.levels :])
