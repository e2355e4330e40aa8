"""Pictures sampled at other places than their pixels."""

from __future__ import annotations

import numpy as np


def sampled(picture: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The picture at these places, bilinear; beyond its edges the pixels of the edge go on.

    Args:
        picture: (height, width, channels).
        y, x: float (h, w), in pixels; 0 is the middle of the first.

    Returns:
        (h, w, channels), of the picture's dtype.
    """
    height, width = picture.shape[:2]
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    top, left = np.minimum(y.astype(np.int64), max(height - 2, 0)), np.minimum(x.astype(np.int64), max(width - 2, 0))
    below, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    down, along = (y - top)[..., None].astype(np.float32), (x - left)[..., None].astype(np.float32)
    values = picture.astype(np.float32)
    upper = values[top, left] * (1 - along) + values[top, right] * along
    lower = values[below, left] * (1 - along) + values[below, right] * along
    return in_dtype(upper * (1 - down) + lower * down, picture.dtype)


def in_dtype(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Float values as pixels: rounded and within their range where those are bytes."""
    return np.clip(np.rint(values), 0, 255).astype(dtype) if dtype.kind == "u" else values.astype(dtype)
