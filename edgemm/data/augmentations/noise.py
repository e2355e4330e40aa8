"""White noise beside sound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgemm.contracts.augmentation import Augmentation, Changed, chosen, require_share
from edgemm.contracts.modality import Modality
from edgemm.data.augmentations._waves.spans import at_ratio
from edgemm.errors import CardError

MODALITIES = ("audio",)


@dataclass(frozen=True)
class Noise(Augmentation):
    """As loud as the clip allows.

    Attributes:
        snr_db: Least and most that it is below the clip, in dB of power.
        chance: Of each clip.
    """

    snr_db: tuple[float, float] = (10.0, 30.0)
    chance: float = 0.5

    def __post_init__(self) -> None:
        require_share("chance", self.chance)
        if self.snr_db[0] > self.snr_db[1]:
            raise CardError(f"snr_db is {list(self.snr_db)}.", fix="write the least first, such as [10, 30].")

    def change(self, samples: np.ndarray, rng: np.random.Generator, part: Modality) -> Changed:
        noisy, rows = samples.copy(), chosen(len(samples), self.chance, rng)
        ratios = rng.uniform(*self.snr_db, len(samples))
        white = rng.standard_normal(samples.shape, np.float32)
        noisy[rows] = at_ratio(samples[rows], white[rows], ratios[rows])
        return Changed(noisy)
