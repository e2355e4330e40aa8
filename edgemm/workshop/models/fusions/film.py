"""A picture keeps its space; sound, words and sensors say which of its channels count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from edgemm.workshop.models.layers.c2f import Pyramid
from edgemm.workshop.models.layers.film import Modulation, picture_of
from edgemm.workshop.models.protocols import Fusion, Maps


class Film(Fusion):
    """The picture's maps through a feature pyramid, each channel scaled and shifted before and behind it by the other inputs' vectors.

    Args:
        picture: The input whose maps are kept; None = the only one that has maps.
        width: Channels of every map it gives.
        blocks: Residual blocks in each join of the pyramid.
        dropout: Share of the other inputs' values blanked in training.

    Raises:
        CardError: No input with maps, several and none chosen, or a picture that cannot be halved often enough.
    """

    takes_maps: ClassVar[bool] = True

    def __init__(
        self,
        widths: Mapping[str, int],
        outputs: Sequence[str],
        maps: Mapping[str, Maps],
        *,
        picture: str | None = None,
        width: int = 64,
        blocks: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(widths, outputs)
        seen = picture_of(maps, picture, "film", "or join the pictures by fusion: gated_maps")
        others = {name: size for name, size in widths.items() if name != seen.input}
        self.before = Modulation(others, seen.channels, dropout)
        self.pyramid = Pyramid(seen, width, blocks)
        self.maps = replace(seen, channels=(width,) * len(seen.channels))
        self.behind = Modulation(others, self.maps.channels, dropout)
        self.picture, self.width = seen.input, width

    def forward(self, branches: dict[str, Any]) -> tuple[Tensor, ...]:
        maps = self.before(branches[self.picture], branches)
        return self.behind(self.pyramid(maps), branches)
