"""Spans and loudness of clips."""

from __future__ import annotations

import numpy as np


def at_ratio(clips: np.ndarray, noise: np.ndarray, ratio_db: np.ndarray) -> np.ndarray:
    """Clips with noise this far below them in power, in [-1, 1]; a silent clip stays silent.

    Args:
        clips, noise: float32 (n, samples).
        ratio_db: (n,).
    """
    loud, own = (np.sqrt(np.square(waves).mean(axis=1, keepdims=True)) for waves in (clips, noise))
    factor = loud / np.maximum(own, 1e-9) * 10 ** (-ratio_db[:, None] / 20)
    mixed: np.ndarray = np.clip(clips + factor * noise, -1, 1).astype(clips.dtype)
    return mixed


def spans(rows: int, size: int, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Begin and end of a span in each row, int (rows,): up to ``share`` of ``size`` long, anywhere."""
    length = rng.uniform(0, share, rows) * size
    begin = rng.uniform(0, 1, rows) * (size - length)
    return begin.astype(int), (begin + length).astype(int)
