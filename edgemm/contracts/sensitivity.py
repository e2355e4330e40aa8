"""What each branch bears: what every output loses when that branch alone is pruned, and when it alone runs in INT8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgemm.contracts.interval import show_interval


@dataclass(frozen=True)
class Cell:
    """One branch treated one way, as one output feels it.

    Attributes:
        treatment: ``prune 50 %`` or ``INT8``.
        value, low, high: What is lost against the original, with its paired interval; None where nothing could be measured.
        accuracy: The output's own metric then.
        note: Why there is no number, or what a number needs to be understood.
    """

    branch: str
    treatment: str
    output: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = "points"
    accuracy: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Sensitivity:
    """The whole table.

    Attributes:
        before: Output -> the original's metric on the rows used.
        split, rows: Which rows, how many.
        target: Where INT8 ran.
    """

    cells: tuple[Cell, ...]
    before: Mapping[str, float]
    metric: Mapping[str, str]
    split: str
    rows: int
    target: str
    notes: tuple[str, ...] = ()

    def find(self, branch: str, treatment: str, output: str) -> Cell | None:
        return next((c for c in self.cells if (c.branch, c.treatment, c.output) == (branch, treatment, output)), None)

    @property
    def branches(self) -> list[str]:
        return list(dict.fromkeys(cell.branch for cell in self.cells))

    @property
    def treatments(self) -> list[str]:
        return list(dict.fromkeys(cell.treatment for cell in self.cells))

    def __str__(self) -> str:
        return "\n\n".join(self._table(output) for output in self.before)

    def _table(self, output: str) -> str:
        unit = next((cell.unit for cell in self.cells if cell.output == output), "")
        before = f"{self.metric[output]} before: {self.before[output]:.4g}, {self.rows} rows of {self.split}"
        head = f"lost of '{output}' in {unit}, each branch treated alone; {before}"
        rows = [["branch", *self.treatments]]
        rows += [[branch, *(_words(self.find(branch, treatment, output)) for treatment in self.treatments)] for branch in self.branches]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([head, *lines])


def _words(cell: Cell | None) -> str:
    if cell is None or cell.value is None:
        return "-"
    return f"{cell.value:.3g} {show_interval(cell.low, cell.high)}".strip()
