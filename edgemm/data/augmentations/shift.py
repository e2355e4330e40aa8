"""Sound earlier or later, with silence where it was."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgemm.contracts.augmentation import Augmentation, Changed, require_share
from edgemm.contracts.modality import Modality

MODALITIES = ("audio",)


@dataclass(frozen=True)
class Shift(Augmentation):
    """What leaves the clip is lost.

    Attributes:
        share: Of the clip's length, at most, either way.
    """

    share: float = 0.1

    def __post_init__(self) -> None:
        require_share("share", self.share)

    def change(self, samples: np.ndarray, rng: np.random.Generator, part: Modality) -> Changed:
        size, moved = samples.shape[1], np.zeros_like(samples)
        for row, by in enumerate(np.rint(rng.uniform(-self.share, self.share, len(samples)) * size).astype(int)):
            moved[row, max(by, 0) : size + min(by, 0)] = samples[row, max(-by, 0) : size - max(by, 0)]
        return Changed(moved)
