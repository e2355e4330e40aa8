"""Sound louder or quieter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgemm.contracts.augmentation import Augmentation, Changed, require_share
from edgemm.contracts.modality import Modality

MODALITIES = ("audio",)


@dataclass(frozen=True)
class Gain(Augmentation):
    """Every clip by its own factor; what leaves [-1, 1] is clipped, as a microphone does it.

    Attributes:
        db: At most, either way.
    """

    db: float = 6.0

    def __post_init__(self) -> None:
        require_share("db", self.db, most=60)

    def change(self, samples: np.ndarray, rng: np.random.Generator, part: Modality) -> Changed:
        factors = 10 ** (rng.uniform(-self.db, self.db, (len(samples), 1)) / 20)
        return Changed(np.clip(samples * factors, -1, 1).astype(samples.dtype))
