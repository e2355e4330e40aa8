"""Channels of measurements with wider or narrower swings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgemm.contracts.augmentation import Augmentation, Changed, require_share
from edgemm.contracts.modality import Modality

MODALITIES = ("sensor",)


@dataclass(frozen=True)
class Scale(Augmentation):
    """Each channel of each row by a factor on its distance from the channel's mean over the batch.

    Attributes:
        sigma: Deviation of the factor, which is 1 on average.
    """

    sigma: float = 0.1

    def __post_init__(self) -> None:
        require_share("sigma", self.sigma, most=10)

    def change(self, samples: np.ndarray, rng: np.random.Generator, part: Modality) -> Changed:
        mean = samples.mean(axis=tuple(range(samples.ndim - 1)), dtype=np.float64)
        shape = (len(samples), *(1,) * (samples.ndim - 2), samples.shape[-1])
        return Changed((mean + (samples - mean) * rng.normal(1, self.sigma, shape)).astype(samples.dtype))
