"""What every peer is given: the trained card, the dataset, the exported float graph, and calibration samples."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Given:
    """Paths; a peer takes what it can read.

    Attributes:
        card: The trained model, for a peer that works on PyTorch.
        data: Its dataset.
        model: The float graph in ONNX, front-ends in it.
        calibration: npz of calibration samples, keyed by the inputs of ``model``, stacked.
    """

    card: str
    data: str
    model: str
    calibration: str

    @cached_property
    def stacked(self) -> dict[str, np.ndarray]:
        with np.load(self.calibration) as arrays:
            return dict(arrays)

    @cached_property
    def samples(self) -> list[dict[str, np.ndarray]]:
        """One dictionary of arrays a row, with a batch of one."""
        count = len(next(iter(self.stacked.values())))
        return [{name: array[row : row + 1] for name, array in self.stacked.items()} for row in range(count)]


def threads() -> int:
    """Threads a peer may use: one a core, unless the caller says otherwise."""
    return int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
