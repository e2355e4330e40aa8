"""Boxes as edges: (n, 4) x0 y0 x1 y1 in pixels, x to the right, y down; a box over a whole 96-pixel picture is 0 0 96 96."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgemm.contracts.stream import Pictures


def area(boxes: np.ndarray) -> np.ndarray:
    """(..., 4) -> (...): 0 where an edge lies beyond its opposite."""
    sides: np.ndarray = np.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    areas: np.ndarray = sides[..., 0] * sides[..., 1]
    return areas


def overlap(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """The area that each of ``ours`` (n, 4) shares with each of ``theirs`` (m, 4): (n, m)."""
    corner = np.maximum(ours[:, None, :2], theirs[None, :, :2])
    sides = np.maximum(np.minimum(ours[:, None, 2:], theirs[None, :, 2:]) - corner, 0)
    shared: np.ndarray = sides[..., 0] * sides[..., 1]
    return shared


def iou(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Intersection over union of each of ``ours`` (n, 4) with each of ``theirs`` (m, 4): (n, m), 0 between boxes without area."""
    shared = overlap(ours, theirs)
    union = area(ours)[:, None] + area(theirs)[None] - shared
    share: np.ndarray = shared / np.where(union > 0, union, 1)
    return share


def clip(boxes: np.ndarray, width: float, height: float) -> np.ndarray:
    """Boxes drawn to the edges of a picture; a new array of the same dtype."""
    inside: np.ndarray = np.clip(boxes, 0, np.array([width, height, width, height], boxes.dtype))
    return inside


def corners_of_centres(boxes: np.ndarray) -> np.ndarray:
    """cx cy w h -> x0 y0 x1 y1."""
    half = boxes[..., 2:] / 2
    return np.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], axis=-1)


def corners_of_sizes(boxes: np.ndarray) -> np.ndarray:
    """x0 y0 w h, as COCO has them -> x0 y0 x1 y1."""
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1)


def sizes_of_corners(boxes: np.ndarray) -> np.ndarray:
    """x0 y0 x1 y1 -> x0 y0 w h."""
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


@dataclass(frozen=True)
class Placement:
    """Where a picture lies in the model's: model = scale * picture + shift, for x and for y.

    The scales are those of the whole pixels that the picture was really scaled to: another rounding moves boxes by up to half a pixel.

    Attributes:
        width, height: Of the picture.
        model_width, model_height: Of the model's picture.
    """

    width: int
    height: int
    model_width: int
    model_height: int
    scale: tuple[float, float]
    shift: tuple[float, float]

    @classmethod
    def of(cls, spec: Pictures, width: int, height: int) -> Placement:
        """How ``spec`` fits a picture of ``width`` x ``height``, upright."""
        across, down = spec.width / width, spec.height / height
        scale, shift = (across, down), (0.0, 0.0)
        if spec.fit == "letterbox":
            factor = min(across, down)
            inner = max(1, round(width * factor)), max(1, round(height * factor))
            scale = inner[0] / width, inner[1] / height
            shift = float((spec.width - inner[0]) // 2), float((spec.height - inner[1]) // 2)
        elif spec.short is not None:
            inner = spec.before_crop(width, height)
            scale = inner[0] / width, inner[1] / height
            shift = -float((inner[0] - spec.width) // 2), -float((inner[1] - spec.height) // 2)
        elif spec.fit == "crop":
            factor = max(across, down)
            scale = factor, factor
            shift = min((spec.width - width * factor) / 2, 0.0), min((spec.height - height * factor) / 2, 0.0)
        return cls(width, height, spec.width, spec.height, scale, shift)

    def to_model(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (n, 4) of the picture in pixels of the model's, not clipped; float32."""
        return np.asarray(boxes * np.array(self.scale * 2) + np.array(self.shift * 2), np.float32)

    def to_picture(self, boxes: np.ndarray) -> np.ndarray:
        """The way back, clipped to the picture; float32."""
        moved = (boxes.astype(np.float64) - np.array(self.shift * 2)) / np.array(self.scale * 2)
        return clip(moved.astype(np.float32), self.width, self.height)
