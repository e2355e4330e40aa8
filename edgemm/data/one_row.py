"""Single rows of a dataset by their number, each with its cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.contracts.card import Card
from edgemm.data.dataset import TableDataset
from edgemm.data.decoding import Decoder
from edgemm.data.manifest import ManifestRow
from edgemm.errors import DataError

ORDER = ("test", "val", "train", "calib")


@dataclass(frozen=True)
class OneRow:
    """A row.

    Attributes:
        inputs: Input -> what the graph takes, one sample with its batch axis.
        lacking: Optional inputs that it does not have.
        cells: Input or output -> what stands in its column.
        folder: What paths in the cells are relative to.
    """

    number: int
    split: str
    inputs: Mapping[str, np.ndarray]
    lacking: frozenset[str]
    cells: Mapping[str, Any]
    folder: Path


def rows_of(dataset: TableDataset, numbers: Sequence[int]) -> list[OneRow]:
    """The rows of these numbers, in their order; without any the first row of test, or of what comes first of val, train and calib.

    Numbers are those that errors name: the line in a text manifest. Where several splits have one, it is test's.

    Raises:
        DataError: There is no such row, or it cannot be read.
    """
    splits = [split for split in ORDER if split in dataset.splits()]
    if not numbers:
        dataset.require_rows("test" if not splits else splits[0])
        return [_decoded(dataset, splits[0], next(iter(dataset.source.rows(splits[0]))))]
    found: dict[int, OneRow] = {}
    for split in splits:
        for row in dataset.source.rows(split):
            if row.number in numbers and row.number not in found:
                found[row.number] = _decoded(dataset, split, row)
    for number in numbers:
        if number not in found:
            raise DataError(
                f"{dataset.name}: there is no row {number}.",
                why="a row is called by its line in the manifest, as in errors about it.",
                fix="give a line that is there; the header is line 1.",
            )
    return [found[number] for number in numbers]


def _decoded(dataset: TableDataset, split: str, row: ManifestRow) -> OneRow:
    card = dataset.card
    decoded = Decoder(card, dataset.parts, {}, name=dataset.name, folder=dataset.source.folder).decode(row)
    lacking = frozenset(name for name, there in decoded.present.items() if not there)
    inputs = {name: _as_a_call(card, dataset, name, array) for name, array in decoded.inputs.items()}
    cells = {name: row.cells.get(card.column(name)) for name in (*card.inputs, *card.outputs)}
    return OneRow(row.number, split, inputs, lacking, cells, dataset.source.folder)


def _as_a_call(card: Card, dataset: TableDataset, name: str, array: np.ndarray) -> np.ndarray:
    axis = dataset.parts[name].batch_axis()
    return array if axis is None else np.expand_dims(array, axis)
