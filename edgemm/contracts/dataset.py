"""What a dataset is to whoever trains, calibrates or measures on it: splits of rows, as batches of arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from edgemm.contracts.card import Card, Output
from edgemm.contracts.modality import Modality


@dataclass(frozen=True)
class Batch:
    """Some samples, decoded.

    Attributes:
        inputs: Card input -> (n[, steps], *sample) as the graph takes it; a ``tensor`` has n where its card says ``batch``.
        truth: Output -> (n, ...) as its task makes it of a cell; an output whose task has no truth is not there.
        present: Optional input -> bool (n,); where False the input holds zeros or padding.
        rows: int64 (n,), the rows' numbers as a person counts: the line in a text manifest.
    """

    inputs: dict[str, np.ndarray]
    truth: dict[str, np.ndarray]
    present: dict[str, np.ndarray]
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


class Dataset(Protocol):
    """Rows and how a card reads them. Nothing is decoded before a batch is asked for; each call to ``batches`` reads anew."""

    card: Card

    @property
    def name(self) -> str:
        """What errors call it."""
        ...

    @property
    def is_fixed(self) -> bool:
        """Whether a row is the same sample in every pass; a function that is called anew may make another of it."""
        ...

    @property
    def parts(self) -> Mapping[str, Modality]:
        """Input -> its modality."""
        ...

    @property
    def labelled(self) -> Mapping[str, Output]:
        """Outputs that a column tells the truth of."""
        ...

    @property
    def bad_rows(self) -> list[str]:
        """What was left out so far, in words; [] where a bad row is an error."""
        ...

    @property
    def leaves_out(self) -> bool:
        """Whether rows that cannot be read are left out instead of being an error."""
        ...

    def splits(self) -> list[str]:
        """Names of the splits that have rows."""
        ...

    def count(self, split: str) -> int:
        """Rows in a split; 0 where there is no such split."""
        ...

    def require_rows(self, split: str) -> None:
        """Raises DataError where there is no such split, or no row in it."""
        ...

    def cells(self, split: str, name: str) -> Iterator[Any]:
        """What stands in the column of an input or output, undecoded and without empty cells."""
        ...

    def only(self, *inputs: str) -> Dataset:
        """The same rows with some inputs and no truth, so that nothing else is decoded."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """Plain values that change when the data does."""
        ...

    def batches(self, split: str, batch_size: int, *, shuffle: int | None = None, limit: int | None = None) -> Iterator[Batch]:
        """Stream a split.

        Args:
            batch_size: Samples in a batch; the last one may hold fewer.
            shuffle: Seed of the order; None = the order of the rows.
            limit: At most so many samples.

        Raises:
            DataError: The split has no rows; a row cannot be read.
        """
        ...

    def calibration(self, samples: int, *, seed: int = 0) -> Iterator[Batch]:
        """The samples to calibrate on, one a batch.

        Raises:
            DataError: Fewer than 2 samples are asked for, or there.
        """
        ...
