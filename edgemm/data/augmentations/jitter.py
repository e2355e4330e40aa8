"""Noise on measurements."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgemm.contracts.augmentation import Augmentation, Changed, require_share
from edgemm.contracts.modality import Modality

MODALITIES = ("sensor",)


@dataclass(frozen=True)
class Jitter(Augmentation):
    """Normal, of each value apart.

    Attributes:
        sigma: Its deviation, in deviations of the channel over the batch.
    """

    sigma: float = 0.05

    def __post_init__(self) -> None:
        require_share("sigma", self.sigma, most=10)

    def change(self, samples: np.ndarray, rng: np.random.Generator, part: Modality) -> Changed:
        spread = samples.std(axis=tuple(range(samples.ndim - 1)), dtype=np.float64)
        return Changed((samples + self.sigma * spread * rng.standard_normal(samples.shape)).astype(samples.dtype))
