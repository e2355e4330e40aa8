"""Recordings of other things beside sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgemm.contracts.augmentation import Augmentation, Changed, FolderPath, chosen, require_share
from edgemm.contracts.modality import Modality
from edgemm.data.augmentations._waves.spans import at_ratio
from edgemm.errors import CardError, DataError

MODALITIES = ("audio",)
ENDINGS = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif")


@dataclass(frozen=True)
class Background(Augmentation):
    """Each file is read as a clip of the card's length and begins anywhere in it; of a long one that is its beginning.

    Attributes:
        folder: Where the recordings are, also in folders below.
        snr_db: Least and most that they are below the clip, in dB of power.
        chance: Of each clip.
    """

    folder: FolderPath
    snr_db: tuple[float, float] = (5.0, 20.0)
    chance: float = 0.5
    _clips: dict[Path, np.ndarray] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_share("chance", self.chance)
        if self.snr_db[0] > self.snr_db[1]:
            raise CardError(f"snr_db is {list(self.snr_db)}.", fix="write the least first, such as [5, 20].")

    def files(self) -> Sequence[Path]:
        files = sorted(path for path in Path(self.folder).rglob("*") if path.suffix.lower() in ENDINGS)
        if not files:
            why = "there is no such folder." if not Path(self.folder).is_dir() else f"it holds no {', '.join(ENDINGS)}."
            raise CardError(f"folder '{self.folder}' has no recordings.", why=why, fix="name a folder with sound files, from this file.")
        return files

    def change(self, samples: np.ndarray, rng: np.random.Generator, part: Modality) -> Changed:
        mixed, rows, files = samples.copy(), chosen(len(samples), self.chance, rng), self.files()
        picks, begins = rng.integers(0, len(files), len(samples)), rng.integers(0, samples.shape[1], len(samples))
        ratios = rng.uniform(*self.snr_db, len(samples))
        for row in np.flatnonzero(rows):
            other = np.roll(self._clip(files[picks[row]], part), begins[row])
            mixed[row] = at_ratio(samples[row : row + 1], other[None], ratios[row : row + 1])[0]
        return Changed(mixed)

    def _clip(self, file: Path, part: Modality) -> np.ndarray:
        if file not in self._clips:
            try:
                self._clips[file] = part.decode(file.name, file.parent)
            except DataError as err:
                raise DataError(f"background: '{file}': {err.what}", why=err.why, fix=err.fix) from err
        return self._clips[file]
