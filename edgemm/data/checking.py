"""Mistakes that can be told without decoding: labels the card does not know, files that are not there, empty cells, broken lines.

One streaming pass over all splits, so that a wrong row at the end of a manifest is told at once and not when somebody reads it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from edgemm.contracts import task as tasks
from edgemm.contracts.card import Input
from edgemm.contracts.modality import Modality, existing
from edgemm.contracts.task import Cells, Task
from edgemm.data import labels
from edgemm.data.dataset import TableDataset
from edgemm.data.manifest import Row
from edgemm.errors import Collector, DataError

TOLD = 8  # mistakes in one message
REMEMBERED = 65536  # cells known to be good: labels repeat, and so do files where several rows share one


def check(dataset: TableDataset, *, needed: Sequence[str] = ()) -> None:
    """Look at every row of a manifest; a function's first rows only, and npz files not at all: their cells are arrays.

    Costs about a second for 100,000 rows. No row is looked at in a dataset that leaves out bad ones: it counts them when they are read.

    Args:
        needed: Splits that what follows cannot do without.

    Raises:
        DataError: A needed split has no rows; one row is wrong (names file, row and column).
        Mistakes: Several are, the first few of them.
    """
    for split in needed:
        dataset.require_rows(split)
    if dataset.leaves_out:
        return
    mistakes, looker = Collector(), _Looker(dataset)
    for split in dataset.splits():
        for row in dataset.source.naming(split):
            error = looker.mistake(row)
            if error is not None:
                mistakes.add(error)
                if len(mistakes.errors) == TOLD:
                    mistakes.raise_if_any()
    mistakes.raise_if_any()


class _Looker:
    """Finds the first mistake of a row."""

    def __init__(self, dataset: TableDataset) -> None:
        card = dataset.card
        self.name, self.folder = dataset.source.name, dataset.source.folder
        self.inputs = [(card.column(key), card.inputs[key], part) for key, part in dataset.parts.items()]
        self.outputs = [(card.column(key), tasks.of(spec)) for key, spec in dataset.labelled.items()]
        self.good: set[tuple[str, str]] = set()

    def mistake(self, row: Row) -> DataError | None:
        if row.trouble:
            return DataError(f"{self.name}, row {row.number}: the row cannot be read.", why=row.trouble, fix="mend or remove the row.")
        column = ""
        try:
            for column, spec, part in self.inputs:
                self._input(column, row.cells.get(column), spec, part)
            beside = Cells(self.folder, {spec.name: row.cells.get(named) for named, spec, _ in self.inputs})
            for column, task in self.outputs:
                self._output(column, row.cells.get(column), task, beside)
        except DataError as err:
            return DataError(f"{self.name}, row {row.number}, column '{column}': {err.what}", why=err.why, fix=err.fix)
        return None

    def _input(self, column: str, cell: Any, spec: Input, part: Modality) -> None:
        if labels.is_empty(cell):
            if not (spec.optional or part.initial() is not None or part.reads_empty(cell)):
                raise DataError("the cell is empty.", fix=f"fill it, remove the row, or set inputs.{spec.name}.optional: true.")
            return
        if isinstance(cell, str) and (column, cell) in self.good:
            return
        entries = cell if isinstance(cell, (list, tuple)) else cell.split("|") if isinstance(cell, str) else ()
        for file in (file for entry in entries if (file := part.file(entry))):
            if not os.path.isfile(os.path.join(self.folder, file.strip())):  # a third of what a Path costs
                existing(file, self.folder)  # says what is wrong
            self._remember(column, cell)

    def _output(self, column: str, cell: Any, task: Task, beside: Cells) -> None:
        if isinstance(cell, str) and (column, cell) in self.good:
            return
        task.truth(cell, beside)
        self._remember(column, cell)

    def _remember(self, column: str, cell: Any) -> None:
        if isinstance(cell, str) and len(cell) < 256:
            if len(self.good) >= REMEMBERED:
                self.good.clear()
            self.good.add((column, cell))
