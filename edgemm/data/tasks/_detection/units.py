"""Boxes that are told in another unit than the card says, found by looking at their values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgemm.data.boxes.layout import OF_PLACES, Layout
from edgemm.errors import MeasureError

FEWEST = 4  # boxes, before anything is said of them
LEAST_SIDE = 16  # pixels of a picture in which a box of one pixel is odd
SLACK = 1.05  # what a ratio may be beyond 1: a box at the edge
BEYOND = 4.0  # pictures that a box spans when pixels are taken for ratios: of a picture of 64 pixels it would be 64


def require_plausible(boxes: Sequence[np.ndarray], layout: Layout, name: str) -> None:
    """Refuse boxes of parts of the picture where pixels are said, and the other way round.

    Args:
        boxes: Of each row those that count, (n, 4) x0 y0 x1 y1 in pixels as the card has them told, not clipped.

    Raises:
        MeasureError: They are; names the unit to write.
    """
    told = np.concatenate([*boxes, np.empty((0, 4), np.float32)])
    if layout.form in OF_PLACES or len(told) < FEWEST or min(layout.width, layout.height) < LEAST_SIDE:
        return
    sides = np.array([layout.width, layout.height] * 2)
    if layout.unit == "pixels" and (told[:, 2:] > told[:, :2]).all() and told.min() >= 1 - SLACK and told.max() <= SLACK:
        raise MeasureError(
            f"output '{name}': all boxes end at {told.max():.3g}, in a picture of {layout.width} x {layout.height} pixels.",
            why="they are parts of the picture, and the card says pixels.",
            fix="write boxes: {unit: ratio} in the card.",
        )
    if layout.unit == "ratio" and np.median(np.abs(told / sides).max(axis=1)) > BEYOND:
        raise MeasureError(
            f"output '{name}': half of the boxes end beyond {BEYOND:g} pictures.",
            why="they are pixels, and the card says ratio: parts of the picture.",
            fix="write boxes: {unit: pixels} in the card.",
        )
