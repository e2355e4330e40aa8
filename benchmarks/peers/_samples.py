"""Calibration samples for a peer: one dictionary of arrays a row, as the exported graph takes them. Needs numpy only."""

from __future__ import annotations

import numpy as np


def samples(path: str) -> list[dict[str, np.ndarray]]:
    with np.load(path) as arrays:
        stacked = dict(arrays)
    count = len(next(iter(stacked.values())))
    return [{name: array[row : row + 1] for name, array in stacked.items()} for row in range(count)]
