"""Pictures lighter or darker, of more or less contrast, more or less colourful."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgemm.contracts.augmentation import Augmentation, Changed, require_share
from edgemm.contracts.modality import Modality
from edgemm.data.augmentations._pictures.warping import in_dtype

MODALITIES = ("image",)


@dataclass(frozen=True)
class Colour(Augmentation):
    """Each by a factor from 1 - x to 1 + x, drawn for each picture; opacity stays.

    Attributes:
        brightness: x of the factor on all values.
        contrast: On their distance from the picture's mean.
        saturation: On their distance from grey, of pictures with colours.
    """

    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            require_share(name, getattr(self, name))

    def change(self, samples: np.ndarray, rng: np.random.Generator, part: Modality) -> Changed:
        values = samples.astype(np.float32)
        colours = values[..., :3]
        light, contrast, saturation = (
            rng.uniform(1 - most, 1 + most, (len(samples), 1, 1, 1)).astype(np.float32)
            for most in (self.brightness, self.contrast, self.saturation)
        )
        if colours.shape[-1] == 3:
            grey = colours.mean(axis=-1, keepdims=True)
            colours = grey + (colours - grey) * saturation
        mean = colours.mean(axis=(1, 2, 3), keepdims=True)
        values[..., :3] = (mean + (colours - mean) * contrast) * light
        return Changed(in_dtype(values, samples.dtype))
