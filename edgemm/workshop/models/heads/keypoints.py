"""Heat maps of points, and where several objects may be, of their middles."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgemm.contracts.card import Output
from edgemm.errors import CardError
from edgemm.workshop.models.layers.pixels import Gathered, require_frame
from edgemm.workshop.models.protocols import Head, Maps, labels_of

PRIOR = 0.01  # of every map at first: almost no cell is a point (Lin et al. 2017, "Focal Loss for Dense Object Detection")


class Keypoints(Head):
    """At the finest map logits for each point; with ``layout: centres`` logits for the middles of each label's objects before them, and
    behind them, in cells, how far each point of an object is from the middle of a cell.

    Args:
        hidden: Channels of the layers in between; None = those of the maps.
        layers: 3x3 convolutions behind the sum of all maps.

    Raises:
        CardError: The card says another form, or points in another picture.

    Source: Xiao et al. 2018, "Simple Baselines for Human Pose Estimation"; for several objects Zhou et al. 2019, "Objects as Points".
    """

    takes_maps: ClassVar[bool] = True

    def __init__(self, width: int, output: Output, maps: Maps, *, hidden: int | None = None, layers: int = 1) -> None:
        super().__init__(width, output)
        require_frame(output, maps)
        layout, scores = output.options.get("layout", "heatmaps"), output.options.get("scores", "sigmoid")
        if layout == "list" or scores != "sigmoid":
            raise CardError(
                f"outputs.{output.name}: head 'keypoints' cannot answer with layout: {layout}, scores: {scores}.",
                fix="write layout: heatmaps or centres, and scores: sigmoid.",
            )
        inside, points = hidden or width, len(output.options["points"])
        self.gathered = Gathered(maps, width, inside, layers)
        self.points = _likely(inside, points)
        is_several = layout == "centres"
        self.centres = _likely(inside, labels_of(output, "keypoints")) if is_several else None
        self.offsets = nn.Conv2d(inside, 2 * points, 1) if is_several else None

    def forward(self, x: tuple[Tensor, ...]) -> Tensor:
        """Maps (N, width, H, W), the finest first -> (N, points, H, W), or (N, labels + 3 * points, H, W)."""
        seen = self.gathered(x)
        if self.centres is None or self.offsets is None:
            return self.points(seen)
        return torch.cat([self.centres(seen), self.points(seen), self.offsets(seen)], 1)


def _likely(inside: int, maps: int) -> nn.Conv2d:
    layer = nn.Conv2d(inside, maps, 1)
    nn.init.constant_(layer.bias, math.log(PRIOR / (1 - PRIOR)))  # type: ignore[arg-type]
    return layer
