"""Words left out of a text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgemm.contracts.augmentation import Augmentation, Changed, require_share
from edgemm.contracts.modality import Modality

MODALITIES = ("text",)


@dataclass(frozen=True)
class DropWords(Augmentation):
    """Tokens are taken out and those behind them move up; marks such as begin and end stay, and so does one token at least.

    Attributes:
        share: Of tokens that are left out, on average.
    """

    share: float = 0.1

    def __post_init__(self) -> None:
        require_share("share", self.share)

    def change(self, samples: np.ndarray, rng: np.random.Generator, part: Modality) -> Changed:
        vocabulary = part.vocabulary()
        pad, marks = (vocabulary.pad, vocabulary.marks) if vocabulary else (0, ())
        shorter = np.full_like(samples, pad)
        drawn = rng.random(samples.shape)
        for row, ids in enumerate(samples):
            words = (ids != pad) & ~np.isin(ids, marks)
            kept = (ids != pad) & ~(words & (drawn[row] < self.share))
            if words.any() and not (kept & words).any():
                kept[np.where(words, drawn[row], -1).argmax()] = True
            rest = ids[kept]
            is_padded_left = len(ids) and ids[0] == pad and ids[-1] != pad
            shorter[row, len(ids) - len(rest) if is_padded_left else 0 :][: len(rest)] = rest
        return Changed(shorter)
