"""Pictures turned left to right; boxes and masks in them follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgemm.contracts.augmentation import Augmentation, Changed, chosen, require_share
from edgemm.contracts.modality import Modality

MODALITIES = ("image",)


@dataclass(frozen=True)
class Flip(Augmentation):
    """Mirrored. Not for what has a side: writing, digits, traffic signs.

    Attributes:
        chance: Of each picture.
    """

    moves: ClassVar[bool] = True

    chance: float = 0.5

    def __post_init__(self) -> None:
        require_share("chance", self.chance)

    def change(self, samples: np.ndarray, rng: np.random.Generator, part: Modality) -> Changed:
        turned, rows = samples.copy(), chosen(len(samples), self.chance, rng)
        turned[rows] = samples[rows, :, ::-1]
        return Changed(turned, rows)
