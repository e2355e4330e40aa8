"""Whether the data have rows that a joint can be fitted on."""

from __future__ import annotations

from collections.abc import Sequence

from edgemm.data.dataset import TableDataset
from edgemm.data.labels import is_empty
from edgemm.errors import DataError
from edgemm.pipeline.answers import decision_split
from edgemm.pipeline.late_fusion.members import Composed

LEAST_ROWS = 10
"""Labelled rows of val behind a joint: with fewer a temperature is a guess."""


def require_rows(dataset: TableDataset, composed: Composed) -> None:
    """Refuse data that no joint could be fitted on, as far as the manifest's cells tell: said before a member is loaded.

    Raises:
        DataError: There are only test rows, too few of val, or a member answers none of them.
    """
    split, _ = decision_split(dataset)
    if not split:
        raise DataError("there are only test rows.", why="a joint is fitted on val, never on test.", fix="mark some rows as val.")
    assert composed.card.joint is not None  # compose made it
    for name, inputs in composed.card.joint.members.items():
        columns = list(dict.fromkeys(map(composed.card.column, inputs)))
        if columns and not any(_reads_empty(dataset, one) for one in inputs) and not _has_cells(dataset, split, columns):
            raise never_there(name, split, f"{' and '.join(map(repr, columns))} {'is' if len(columns) == 1 else 'are'} empty in every row.")
    for head in composed.card.joint.heads:
        if dataset.count(split) < LEAST_ROWS:
            raise too_few(head, split, f"{dataset.count(split)} in all")


def _reads_empty(dataset: TableDataset, name: str) -> bool:
    """Whether an empty cell is an answerable one, as an empty text is."""
    part = dataset.parts[name]
    return not dataset.card.inputs[name].optional and (part.initial() is not None or part.reads_empty(""))


def _has_cells(dataset: TableDataset, split: str, columns: Sequence[str]) -> bool:
    """Whether some row holds something in one of the columns; of arrays nothing is known yet."""
    looked = False
    for row in dataset.source.naming(split):
        looked = True
        if row.trouble or any(not is_empty(row.cells.get(column)) for column in columns):
            return True
    return not looked


def never_there(member: str, split: str, why: str) -> DataError:
    """What is said of a member that has no row."""
    return DataError(f"member '{member}' answers no row of {split}.", why=why, fix="fill their columns, or leave it out.")


def too_few(head: str, split: str, rows: str) -> DataError:
    """What is said of a split on which nothing can be calibrated."""
    return DataError(
        f"too few rows of {split} to join head '{head}' on: {rows}.",
        why=f"a calibration needs {LEAST_ROWS} rows or more.",
        fix=f"label more rows of {split}.",
    )
