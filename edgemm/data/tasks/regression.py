"""A measurement: one number, or several."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edgemm.contracts.decision import Observation
from edgemm.contracts.task import Arrays, Cells, Entity, Task
from edgemm.data import labels as cells
from edgemm.data import scoring
from edgemm.data.scoring import Metric, RowScores
from edgemm.errors import DataError

STEPS = "|"
METRIC = {"mae": "Mean absolute error"}


@dataclass(frozen=True)
class Regression(Task):
    """Numbers (n,), (n, 1) or (n, d), truth float32 (n,) or (n, d); ``per_step`` puts T after n. Guarded: mean absolute error.

    Attributes:
        unit: What a number counts, such as dB.
        per_step: One answer a time step; a cell lists its steps, separated by "|".
    """

    is_quantity: ClassVar[bool] = True

    unit: str | None = None
    per_step: bool = False

    def truth(self, cell: Any, row: Cells) -> np.ndarray:
        """A number; several are separated by blanks, "," or ";", or are a list."""
        return cells.by_step(cell, STEPS, _numbers) if self.per_step else _numbers(cell)

    def agrees(self, answers: Mapping[str, tuple[int, ...]], truth: tuple[int, ...] | None) -> bool:
        return truth is not None and int(np.prod(answers[self.name])) == int(np.prod(truth))

    def statistics(self, answers: Arrays, truth: np.ndarray | None) -> RowScores:
        assert truth is not None
        rows = scoring.mean_of_steps(np.abs(answers[self.name].astype(np.float64).reshape(truth.shape) - truth))
        metric = Metric("mae", "lower", self.unit or "", in_points=False)
        return RowScores(metric=metric, rows=rows, spread=float(np.std(truth.astype(np.float64))))

    def further(self, answers: Arrays, truth: np.ndarray | None) -> Mapping[str, float]:
        """Correlation of answers and truth."""
        assert truth is not None
        ours, true = (array.reshape(-1).astype(np.float64) for array in (answers[self.name], truth))
        ours, true = ours - ours.mean(), true - true.mean()
        size = float(np.sqrt(np.square(ours).sum() * np.square(true).sum()))
        return {"pearson": float((ours * true).sum()) / size if size > 0 else float("nan")}

    def read(self, answers: Arrays) -> Observation:
        """The number; of several, and of a series, the last."""
        return Observation(value=float(np.ravel(answers[self.name])[-1]), unit=self.unit)

    def entities(self) -> Sequence[Entity]:
        return [Entity("value", "number", unit=self.unit)]


def _numbers(cell: Any) -> np.ndarray:
    if cells.is_empty(cell) and not isinstance(cell, float):
        raise cells.empty()
    words: Any = re.split(r"[\s,;|]+", cell.strip().strip("[]").strip()) if isinstance(cell, str) else cell
    fix = "write a number, such as 61.5: without its unit, and with '.' for the decimal point."
    try:
        array = np.asarray(words)
        if array.dtype.kind not in "fiubSUO" or (array.dtype.kind == "U" and "_" in "".join(array.flat)):
            raise ValueError("no number")
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is found
            numbers = array.astype(np.float32)
    except (TypeError, ValueError) as err:
        raise DataError(f"'{cell}' is no number.", fix=fix) from err
    if not np.isfinite(numbers).all():
        raise DataError(
            f"the value is {cell}.", why="a measurement is a finite number.", fix="mend or remove the row, or pass --skip-bad-rows."
        )
    return numbers[0] if numbers.shape == (1,) else numbers
