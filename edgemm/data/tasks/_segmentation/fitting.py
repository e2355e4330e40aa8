"""Masks from a file's picture to the model's and back, each pixel by the nearest: numbers of labels have no middle between them."""

from __future__ import annotations

import numpy as np

from edgemm.data.boxes.geometry import Placement


def to_model(mask: np.ndarray, placement: Placement, outside: int) -> np.ndarray:
    """(height, width) of the file's picture -> of the model's; ``outside`` stands in bars."""
    across, down = placement.scale
    columns = (np.arange(placement.model_width) + 0.5 - placement.shift[0]) / across
    rows = (np.arange(placement.model_height) + 0.5 - placement.shift[1]) / down
    return _taken(mask, rows, columns, outside)


def to_picture(mask: np.ndarray, placement: Placement, outside: int) -> np.ndarray:
    """(h, w) over the model's picture, in whatever size -> over the whole of the file's, with pixels as large as they were.

    Returns:
        (height, width) in the aspect of the file's picture; ``outside`` where the model saw nothing.
    """
    high, wide = (cells / pixels for cells, pixels in zip(mask.shape, (placement.model_height, placement.model_width), strict=True))
    across, down = placement.scale
    height, width = (max(1, round(size)) for size in (placement.height * down * high, placement.width * across * wide))
    columns = ((np.arange(width) + 0.5) * (placement.width / width) * across + placement.shift[0]) * wide
    rows = ((np.arange(height) + 0.5) * (placement.height / height) * down + placement.shift[1]) * high
    return _taken(mask, rows, columns, outside)


def _taken(mask: np.ndarray, rows: np.ndarray, columns: np.ndarray, outside: int) -> np.ndarray:
    """The pixels of a mask at places counted from its edges."""
    row, column = np.floor(rows).astype(np.int64), np.floor(columns).astype(np.int64)
    is_inside = ((row >= 0) & (row < mask.shape[0]))[:, None] & ((column >= 0) & (column < mask.shape[1]))
    seen = mask[np.clip(row, 0, mask.shape[0] - 1)[:, None], np.clip(column, 0, mask.shape[1] - 1)]
    return np.where(is_inside, seen, outside).astype(mask.dtype)
