"""A rectangle of a picture filled with the picture's mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgemm.contracts.augmentation import Augmentation, Changed, chosen, require_share
from edgemm.contracts.modality import Modality
from edgemm.data.augmentations._pictures.warping import in_dtype

MODALITIES = ("image",)


@dataclass(frozen=True)
class Erase(Augmentation):
    """Hidden, as by a hand or a post. Source: Zhong et al. (2017), Random Erasing.

    Attributes:
        share: Of height and width that the rectangle takes at most.
        chance: Of each picture.
    """

    share: float = 0.4
    chance: float = 0.5

    def __post_init__(self) -> None:
        require_share("share", self.share)
        require_share("chance", self.chance)

    def change(self, samples: np.ndarray, rng: np.random.Generator, part: Modality) -> Changed:
        sizes = np.array(samples.shape[1:3])
        hidden, rows = samples.copy(), chosen(len(samples), self.chance, rng)
        lengths = np.rint(rng.uniform(0, self.share, (len(samples), 2)) * sizes).astype(int)
        begins = (rng.random((len(samples), 2)) * (sizes - lengths + 1)).astype(int)
        for row in np.flatnonzero(rows):
            (top, left), (high, wide) = begins[row], lengths[row]
            hidden[row, top : top + high, left : left + wide] = in_dtype(samples[row].mean(axis=(0, 1), dtype=np.float64), samples.dtype)
        return Changed(hidden)
