"""What heads share that answer for every place of a picture: all maps brought to the finest one's size."""

from __future__ import annotations

from torch import Tensor, nn

from edgemm.contracts.card import Output
from edgemm.errors import CardError
from edgemm.workshop.models.layers.c2f import conv_relu
from edgemm.workshop.models.layers.fusion import total
from edgemm.workshop.models.protocols import Maps


class Gathered(nn.Module):
    """What each map sees, drawn to the size of the finest and added up, then through convolutions.

    Args:
        width: Channels of the maps.
        hidden: Channels of what it gives.
        layers: 3x3 convolutions behind the sum.

    Source: Kirillov et al. 2019, "Panoptic Feature Pyramid Networks", the branch for what has no instances.
    """

    def __init__(self, maps: Maps, width: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.sees = nn.ModuleList(conv_relu(width, hidden) for _ in maps.strides)
        self.factors = [ratio(maps.cells[0], cells) for cells in maps.cells[1:]]
        self.layers = nn.Sequential(*(conv_relu(hidden, hidden, 3) for _ in range(layers)))

    def forward(self, x: tuple[Tensor, ...]) -> Tensor:
        """Maps (N, width, H, W), the finest first -> (N, hidden, H, W) of the finest."""
        finest, *coarser = [sees(one) for sees, one in zip(self.sees, x, strict=True)]
        drawn = (nn.functional.interpolate(one, scale_factor=factors) for one, factors in zip(coarser, self.factors, strict=True))
        return self.layers(total([finest, *drawn]))


def ratio(wanted: tuple[int, int], had: tuple[int, int]) -> list[float]:
    """How often (height, width) goes into another: with factors a Resize is exported without arithmetic on shapes, with sizes it is not."""
    return [high / low for high, low in zip(wanted, had, strict=True)]


def require_frame(output: Output, maps: Maps) -> None:
    """Raises CardError where an output is about another picture than the maps are of."""
    frame = output.options.get("frame")
    if frame not in (None, maps.input):
        raise CardError(
            f"outputs.{output.name}: frame is '{frame}', and the maps are those of '{maps.input}'.",
            why="an answer is about the picture whose maps the fusion keeps.",
            fix=f"write frame: {maps.input}, or kwargs.fusion's picture: {frame}.",
        )
