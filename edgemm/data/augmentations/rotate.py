"""Pictures turned by some degrees about their middle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgemm.contracts.augmentation import Augmentation, Changed, chosen, require_share
from edgemm.contracts.modality import Modality
from edgemm.data.augmentations._pictures.warping import sampled

MODALITIES = ("image",)


@dataclass(frozen=True)
class Rotate(Augmentation):
    """Turned either way; the pixels of the edge go on where there are no others.

    Attributes:
        degrees: At most.
        chance: Of each picture.
    """

    moves: ClassVar[bool] = True

    degrees: float = 10.0
    chance: float = 1.0

    def __post_init__(self) -> None:
        require_share("degrees", self.degrees, most=180)
        require_share("chance", self.chance)

    def change(self, samples: np.ndarray, rng: np.random.Generator, part: Modality) -> Changed:
        height, width = samples.shape[1:3]
        turned, rows = samples.copy(), chosen(len(samples), self.chance, rng)
        angles = np.radians(rng.uniform(-self.degrees, self.degrees, len(samples)))
        y, x = np.mgrid[0:height, 0:width].astype(np.float64)
        y, x = y - (height - 1) / 2, x - (width - 1) / 2
        for row in np.flatnonzero(rows):
            sine, cosine = np.sin(angles[row]), np.cos(angles[row])
            turned[row] = sampled(samples[row], sine * x + cosine * y + (height - 1) / 2, cosine * x - sine * y + (width - 1) / 2)
        return Changed(turned)
