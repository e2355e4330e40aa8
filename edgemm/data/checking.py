"""Mistakes that can be told without decoding: labels the card does not know, files that are not there, empty cells, broken lines.

One streaming pass over all splits, so that a wrong row at the end of a manifest is told at once and not when somebody reads it.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edgemm.contracts import task as tasks
from edgemm.contracts.card import Card, Input
from edgemm.contracts.dataset import Batch
from edgemm.contracts.modality import Modality, existing
from edgemm.contracts.task import Cells, Task
from edgemm.data import labels
from edgemm.data.dataset import TableDataset
from edgemm.data.manifest import ManifestRow
from edgemm.errors import Collector, DataError

WHOLE_ROWS = 100_000  # of a larger manifest some rows are looked at
SOME_ROWS, LEAST_ROWS = 30_000, 1000  # in all, and of each split
REMARKED = 8  # rows of a split that are looked at for remarks
SCORED = ("val", "test")
TOLD = 8  # mistakes in one message
ONE_COMMA = re.compile(r"\s*[-+]?\d+,\d+\s*")
"""Two whole numbers, or one with a decimal comma."""
WIDTH = "give each row as many values as the model answers with; a decimal point is '.', not ',', and no blank stands within a number."
REMEMBERED = 65536  # cells known to be good: labels repeat, and so do files where several rows share one


def check(dataset: TableDataset, *, needed: Sequence[str] = (), note: Callable[[str], None] = lambda text: None) -> None:
    """Look at every row of a manifest; a function's first rows only, and npz files not at all: their cells are arrays.

    Costs about a second for 100,000 rows; of more, some from all over are looked at. No row is looked at in a dataset that leaves out
    bad ones: it counts them when they are read.

    Args:
        needed: Splits that what follows cannot do without.
        note: Gets what is odd about the first rows and no error.

    Raises:
        DataError: A needed split has no rows; one row is wrong (names file, row and column).
        Mistakes: Several are, the first few of them.
    """
    for split in needed:
        dataset.require_rows(split)
    for words in _remarks(dataset):
        note(words)
    if dataset.leaves_out:
        return
    mistakes, looker = Collector(), _Looker(dataset)
    total = sum(dataset.count(split) for split in dataset.splits())
    is_large = dataset.is_fixed and total > WHOLE_ROWS
    if is_large:
        note(f"{dataset.source.name}: about {SOME_ROWS:,} of its {total:,} rows are checked now, each of the others when it is read.")
    for split in dataset.splits():
        share = SOME_ROWS * dataset.count(split) // total if is_large else 0
        for row in dataset.source.some(split, max(LEAST_ROWS, share)) if is_large else dataset.source.naming(split):
            error = looker.mistake(row, split)
            if error is not None:
                mistakes.add(error)
                if len(mistakes.errors) == TOLD:
                    mistakes.raise_if_any()
    mistakes.raise_if_any()
    for words in looker.remarks(is_whole=not is_large):
        note(words)


def _remarks(dataset: TableDataset) -> list[str]:
    """What is odd about an input's first cells: one remark each."""
    remarks: dict[str, str] = {}
    for split in dataset.splits():
        for row in itertools.islice(dataset.source.naming(split), REMARKED):
            for name, part in dataset.parts.items():
                cell = row.cells.get(dataset.card.column(name))
                if name not in remarks and (words := part.remark(cell, dataset.source.folder)):
                    remarks[name] = f"{name}: {words}"
    return list(remarks.values())


def require_agreement(card: Card, name: str, answers: Mapping[str, np.ndarray], batch: Batch) -> None:
    """Compare what a model answers to a batch with the truth there.

    Args:
        card: As its dataset reads it.
        name: The dataset's.

    Raises:
        DataError: They do not belong together; names row, column and both widths. Mistakes: in several outputs.
    """
    mistakes = Collector()
    for key, task in tasks.tasks(card).items():
        truth = batch.truth.get(key)
        shapes = {read: tuple(answers[read].shape) for read in task.reads if read in answers}
        if truth is not None and len(shapes) == len(task.reads) and not task.agrees(shapes, truth.shape):
            where = f"{name}, row {batch.rows[0]}, column '{card.column(key)}'"
            mistakes.add(
                DataError(f"{where}: it holds {_width(truth.shape)}.", why=f"the model answers with {_width(shapes[key])}.", fix=WIDTH)
            )
    mistakes.raise_if_any()


def _width(shape: Sequence[int]) -> str:
    values = int(np.prod(shape[1:]))
    return f"{values} value{'s' * (values != 1)}" + (f" in shape {tuple(shape[1:])}" if len(shape) > 2 else "")


class _Looker:
    """Finds the first mistake of a row."""

    def __init__(self, dataset: TableDataset) -> None:
        card = dataset.card
        self.name, self.folder = dataset.source.name, dataset.source.folder
        self.inputs = [(card.column(key), card.inputs[key], part) for key, part in dataset.parts.items()]
        self.outputs = [(card.column(key), tasks.of(spec)) for key, spec in dataset.labelled.items()]
        self.good: set[tuple[str, ...]] = set()
        self.first: dict[str, tuple[int, tuple[int, ...], Any]] = {}  # column -> a row, the shape of its truth, and its cell
        self.number = 0
        self.seen: dict[tuple[str, str], set[str]] = {}  # column and split -> labels, where a metric is a mean over them
        self.of_one_comma = {column for column, task in self.outputs if task.is_quantity}  # as far as was seen

    def remarks(self, *, is_whole: bool) -> list[str]:
        """Columns of measurements that may mean either of two things, and which was taken; labels that a split cannot score."""
        return [*self._commas(), *(self._absent() if is_whole else [])]

    def _absent(self) -> list[str]:
        listed = {column: getattr(task, "labels", None) or () for column, task in self.outputs}
        return [
            f"column '{column}': no row of {split} has {', '.join(map(repr, absent))}: the metric there leaves it out."
            for (column, split), seen in self.seen.items()
            if split in SCORED and seen and (absent := [label for label in listed[column] if label not in seen])
        ]

    def _commas(self) -> list[str]:
        return [
            f"column '{column}': '{cell.strip()}' in row {number} is read as two numbers, and all rows are alike; a decimal point is '.'."
            for column, (number, _, cell) in self.first.items()
            if column in self.of_one_comma
        ]

    def mistake(self, row: ManifestRow, split: str) -> DataError | None:
        if row.trouble:
            return DataError(f"{self.name}, row {row.number}: the row cannot be read.", why=row.trouble, fix="mend or remove the row.")
        column, self.number = "", row.number
        try:
            for column, spec, part in self.inputs:
                self._input(column, row.cells.get(column), spec, part)
            beside = Cells(self.folder, {spec.name: row.cells.get(named) for named, spec, _ in self.inputs})
            for column, task in self.outputs:
                self._output(column, row.cells.get(column), task, beside)
                if task.is_mean_of_labels:
                    self.seen.setdefault((column, split), set()).update(task.labels_in(row.cells.get(column)))
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
        seen = tuple(str(beside.inputs.get(name)) for name in task.parts)  # boxes are right or wrong in their own picture
        if isinstance(cell, str) and (column, cell, *seen) in self.good:
            return
        shape = task.truth(cell, beside).shape
        number, first, other = self.first.setdefault(column, (self.number, shape, cell))
        is_comma, was_comma = (isinstance(text, str) and bool(ONE_COMMA.fullmatch(text)) for text in (cell, other))
        if shape != first:
            why = f"'{other.strip()}' there may be one number with a decimal comma." if was_comma else "all rows hold as many."
            raise DataError(f"it holds {_width((1, *shape))}, row {number} {_width((1, *first))}.", why=why, fix=WIDTH)
        if is_comma != was_comma and task.is_quantity and "," not in str(other if is_comma else cell):
            raise DataError(
                f"it holds '{str(cell).strip()}', row {number} '{str(other).strip()}'.",
                why=f"'{str(cell if is_comma else other).strip()}' may be two numbers, or one with a decimal comma.",
                fix="part the numbers of all rows alike, best by blanks, and write '.' for the decimal point: 2.75 1.5.",
            )
        if not is_comma:
            self.of_one_comma.discard(column)
        self._remember(column, cell, *seen)

    def _remember(self, column: str, cell: Any, *beside: str) -> None:
        if isinstance(cell, str) and len(cell) < 256:
            if len(self.good) >= REMEMBERED:
                self.good.clear()
            self.good.add((column, cell, *beside))
