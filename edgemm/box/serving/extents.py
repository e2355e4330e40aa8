"""How large the pictures are in which outputs say places."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgemm.contracts import task as tasks
from edgemm.contracts.card import Card
from edgemm.contracts.decision import Sample
from edgemm.contracts.modality import modalities
from edgemm.contracts.stream import Pictures
from edgemm.contracts.task import Sizes


class Extents:
    """Of the inputs that an output of the card names as its frame."""

    def __init__(self, card: Card) -> None:
        frames = {getattr(task, "frame", None) for task in tasks.tasks(card).values()}
        self._models = {
            name: (stream.height, stream.width)
            for name, modality in modalities(card).items()
            if name in frames and isinstance(stream := modality.stream(), Pictures)
        }

    def of(self, kept: Mapping[str, Sample]) -> Sizes:
        """Sizes of the pictures that samples were made of; of one that nobody took that of the model's."""
        return {name: self._extent(name, sample) for name, sample in kept.items() if name in self._models}

    def _extent(self, name: str, sample: Sample) -> tuple[int, int]:
        if sample.frame is None:
            return self._models[name]
        height, width = getattr(sample.frame, "extent", None) or np.shape(sample.frame)[:2]  # a source may hand out arrays
        return height, width
