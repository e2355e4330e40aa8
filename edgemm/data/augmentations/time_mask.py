"""Silence over spans of sound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgemm.contracts.augmentation import Augmentation, Changed, require_share
from edgemm.contracts.modality import Modality
from edgemm.data.augmentations._waves.spans import spans
from edgemm.errors import CardError

MODALITIES = ("audio",)


@dataclass(frozen=True)
class TimeMask(Augmentation):
    """On the samples, so that every front-end sees it. Source: Park et al. (2019), SpecAugment.

    Attributes:
        share: Of the clip that a span takes at most.
        count: Spans of a clip.
    """

    share: float = 0.1
    count: int = 1

    def __post_init__(self) -> None:
        require_share("share", self.share)
        if self.count < 1:
            raise CardError(f"count is {self.count}.", fix="write at least 1.")

    def change(self, samples: np.ndarray, rng: np.random.Generator, part: Modality) -> Changed:
        masked, place = samples.copy(), np.arange(samples.shape[1])
        for _ in range(self.count):
            begin, end = spans(len(samples), samples.shape[1], self.share, rng)
            masked[(place >= begin[:, None]) & (place < end[:, None])] = 0
        return Changed(masked)
