"""A picture as another camera sees it: warped by a fixed homography. numpy alone: boxes run it too."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from edgemm.errors import CardError

NUMBERS = 9
FLAT = 1e-9  # a determinant below it, of a matrix whose largest number is 1: the whole picture becomes a line


def check(homography: Sequence[float]) -> None:
    """Raises CardError where these are no nine numbers of a homography."""
    if len(homography) != NUMBERS or not np.isfinite(homography).all():
        raise CardError(
            f"homography has {len(homography)} numbers.",
            why="it is a matrix of three rows and three columns.",
            fix="write nine numbers, row by row: [1, 0, 0, 0, 1, 0, 0, 0, 1] changes nothing.",
        )
    matrix = np.reshape(np.asarray(homography, np.float64), (3, 3))
    if not matrix.any() or abs(np.linalg.det(matrix / np.abs(matrix).max())) < FLAT:
        raise CardError("homography cannot be inverted.", why="it draws the picture to a line.", fix="calibrate the two cameras anew.")


def warped(picture: np.ndarray, homography: tuple[float, ...], bar: Sequence[float]) -> np.ndarray:
    """(height, width, channels) -> the same, each pixel from where ``homography`` has it come from, bilinear.

    Args:
        homography: Row by row, from places in ``picture`` to places in what comes out, both as shares of width and height.
        bar: Values of a pixel that comes from outside.
    """
    height, width, channels = picture.shape
    places, weights, is_outside = _sources(height, width, homography)
    pixels = picture.reshape(-1, channels)
    mixed = (pixels[places] * weights[..., None]).sum(axis=0)
    mixed[is_outside] = bar
    values = np.rint(mixed) if picture.dtype == np.uint8 else mixed
    whole: np.ndarray = values.astype(picture.dtype).reshape(picture.shape)
    return whole


@functools.lru_cache(maxsize=8)
def _sources(height: int, width: int, homography: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each pixel that comes out: the four it is mixed of (4, pixels), how much of each, and whether it comes from outside."""
    y, x = np.mgrid[0:height, 0:width].reshape(2, -1) + 0.5
    back = np.linalg.inv(np.reshape(np.asarray(homography, np.float64), (3, 3)))
    across, down, depth = back @ np.stack([x / width, y / height, np.ones_like(x)])
    is_ahead = depth * np.sign(back[2] @ (0.5, 0.5, 1.0)) > FLAT  # what lies behind the horizon is seen by no camera
    depth = np.where(is_ahead, depth, 1.0)
    across, down = across / depth * width - 0.5, down / depth * height - 0.5
    is_outside = ~is_ahead | (across < -0.5) | (across > width - 0.5) | (down < -0.5) | (down > height - 0.5)
    across, down = np.clip(across, 0, width - 1), np.clip(down, 0, height - 1)
    left, top = np.floor(across).astype(np.int64), np.floor(down).astype(np.int64)
    right, below = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    far, low = (across - left).astype(np.float32), (down - top).astype(np.float32)
    places = np.stack([top * width + left, top * width + right, below * width + left, below * width + right])
    weights = np.stack([(1 - far) * (1 - low), far * (1 - low), (1 - far) * low, far * low])
    return places, weights, is_outside
