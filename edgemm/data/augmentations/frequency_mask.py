"""Bands of frequencies taken out of sound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgemm.contracts.augmentation import Augmentation, Changed, require_share
from edgemm.contracts.modality import Modality
from edgemm.contracts.stream import Sound
from edgemm.data.augmentations._waves.spans import spans
from edgemm.errors import CardError

MODALITIES = ("audio",)
KNEE_HZ = 700.0  # of the mel scale (HTK): below it about linear, above it logarithmic


@dataclass(frozen=True)
class FrequencyMask(Augmentation):
    """On the samples, so that every front-end sees it; bands are as wide as ears hear them. Source: Park et al. (2019), SpecAugment.

    Attributes:
        share: Of the mel scale up to half the rate that a band takes at most.
        count: Bands of a clip.
    """

    share: float = 0.15
    count: int = 1

    def __post_init__(self) -> None:
        require_share("share", self.share)
        if self.count < 1:
            raise CardError(f"count is {self.count}.", fix="write at least 1.")

    def change(self, samples: np.ndarray, rng: np.random.Generator, part: Modality) -> Changed:
        spectrum = np.fft.rfft(samples, axis=1)
        stream, size = part.stream(), spectrum.shape[1]
        half_hz = stream.rate_hz / 2 if isinstance(stream, Sound) else KNEE_HZ
        mel = np.log1p(np.linspace(0, half_hz, size) / KNEE_HZ) / np.log1p(half_hz / KNEE_HZ)  # 0 to 1
        for _ in range(self.count):
            begin, end = (edge[:, None] / size for edge in spans(len(samples), size, self.share, rng))
            spectrum[(mel >= begin) & (mel < end)] = 0
        return Changed(np.fft.irfft(spectrum, samples.shape[1], axis=1).astype(samples.dtype))
