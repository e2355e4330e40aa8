"""What a model said to the rows of a split, and what is true of them: the one form, in memory and on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgemm.store import stored_zip
from edgemm.store.artifact import write_bytes

LABEL = "label:"
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Answers:
    """Answers to rows, with their truth.

    Attributes:
        predictions: Output name -> array (rows, ...).
        truth: Output name -> array (rows, ...), what the dataset says; outputs without a truth are left out.
    """

    predictions: Arrays
    truth: Arrays = field(default_factory=dict)

    def first(self, rows: int | None) -> Answers:
        """Those to the first ``rows`` rows; None = all."""
        return Answers(*({name: array[:rows] for name, array in side.items()} for side in (self.predictions, self.truth)))

    def arrays(self) -> dict[str, np.ndarray]:
        """The flat form: ``<output>`` for predictions, ``label:<output>`` for what is true."""
        return {**self.predictions, **{f"{LABEL}{name}": array for name, array in self.truth.items()}}

    @classmethod
    def of_arrays(cls, flat: Arrays) -> Answers:
        """Back from ``arrays``."""
        truth = {key.removeprefix(LABEL): array for key, array in flat.items() if key.startswith(LABEL)}
        return cls({key: array for key, array in flat.items() if not key.startswith(LABEL)}, truth)

    def save(self, path: Path) -> None:
        """Write ``arrays`` as an npz file: the same bytes for the same answers."""
        write_bytes(path, stored_zip.npz_bytes(self.arrays()))

    @classmethod
    def read(cls, path: Path) -> Answers:
        """Back from ``save``."""
        with np.load(path, allow_pickle=False) as file:
            return cls.of_arrays(dict(file))
