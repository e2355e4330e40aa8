"""Channels of measurements that fail."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgemm.contracts.augmentation import Augmentation, Changed, require_share
from edgemm.contracts.modality import Modality

MODALITIES = ("sensor",)


@dataclass(frozen=True)
class DropChannels(Augmentation):
    """A channel of a row stands still at the channel's mean over the batch.

    Attributes:
        chance: Of each channel of each row.
    """

    chance: float = 0.1

    def __post_init__(self) -> None:
        require_share("chance", self.chance)

    def change(self, samples: np.ndarray, rng: np.random.Generator, part: Modality) -> Changed:
        mean = samples.mean(axis=tuple(range(samples.ndim - 1)), dtype=np.float64).astype(samples.dtype)
        shape = (len(samples), *(1,) * (samples.ndim - 2), samples.shape[-1])
        return Changed(np.where(rng.random(shape) < self.chance, mean, samples).astype(samples.dtype))
