"""A part of a picture, as large as the whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgemm.contracts.augmentation import Augmentation, Changed, chosen, require_share
from edgemm.contracts.modality import Modality
from edgemm.data.augmentations._pictures.warping import sampled

MODALITIES = ("image",)


@dataclass(frozen=True)
class Crop(Augmentation):
    """Cut out anywhere and enlarged.

    Attributes:
        least: Of height and width that is kept.
        chance: Of each picture.
    """

    moves: ClassVar[bool] = True

    least: float = 0.8
    chance: float = 1.0

    def __post_init__(self) -> None:
        require_share("least", self.least, least=0.05)
        require_share("chance", self.chance)

    def change(self, samples: np.ndarray, rng: np.random.Generator, part: Modality) -> Changed:
        height, width = samples.shape[1:3]
        cut, rows = samples.copy(), chosen(len(samples), self.chance, rng)
        shares, down, along = rng.uniform(self.least, 1, len(samples)), rng.random(len(samples)), rng.random(len(samples))
        y, x = np.mgrid[0:height, 0:width].astype(np.float64)
        for row in np.flatnonzero(rows):
            share, free = shares[row], 1 - shares[row]
            cut[row] = sampled(samples[row], down[row] * free * (height - 1) + y * share, along[row] * free * (width - 1) + x * share)
        return Changed(cut)
