"""A label for every pixel, upsampled from feature maps."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from edgemm.contracts.card import Output
from edgemm.workshop.models.layers.pixels import Gathered, ratio, require_frame
from edgemm.workshop.models.protocols import Head, Maps, labels_of


class Segmentation(Head):
    """Logits at the finest map, drawn to the picture's size: (N, labels, height, width).

    Args:
        hidden: Channels of the layers in between; None = those of the maps.
        layers: 3x3 convolutions behind the sum of all maps.
        upsample: Whether the logits are drawn to the picture's size in the model; without it they stay as coarse as the finest map, which
            is less to copy, and whoever reads them does it.

    Raises:
        CardError: The card says that the masks are in another picture.
    """

    takes_maps: ClassVar[bool] = True

    def __init__(
        self, width: int, output: Output, maps: Maps, *, hidden: int | None = None, layers: int = 1, upsample: bool = True
    ) -> None:
        super().__init__(width, output)
        require_frame(output, maps)
        self.gathered = Gathered(maps, width, hidden or width, layers)
        self.last = nn.Conv2d(hidden or width, labels_of(output, "segmentation"), 1)
        self.factors = ratio(maps.size, maps.cells[0]) if upsample else None

    def forward(self, x: tuple[Tensor, ...]) -> Tensor:
        """Maps (N, width, H, W), the finest first -> (N, labels, height, width) in pixels of the picture, or of the finest map."""
        logits = self.last(self.gathered(x))
        if self.factors is None:
            return logits
        return nn.functional.interpolate(logits, scale_factor=self.factors, mode="bilinear", align_corners=False)
