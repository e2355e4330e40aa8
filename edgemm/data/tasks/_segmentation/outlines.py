"""Outlines and runs, as annotated sets have them, to masks: a pixel belongs to what its middle lies in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edgemm.contracts.marks import Mark
from edgemm.errors import DataError

MARKS, SIZE = "marks", "size"
"""Keys of a cell: a list of {label, ignored, polygons or runs}, and the picture's height and width."""


def written(marks: Sequence[Mark], width: int, height: int) -> dict[str, Any]:
    """The cell of a picture with these marks.

    Raises:
        DataError: A mark has neither outline nor runs, or runs of another size than the picture's.
    """
    entries = []
    for mark in marks:
        entry: dict[str, Any] = {"label": mark.label, "ignored": mark.ignored}
        if mark.runs:
            if mark.run_size != (height, width):
                high, wide = mark.run_size
                raise DataError(
                    f"the runs of '{mark.label}' are of a picture of {wide} x {high}, and it has {width} x {height}.", fix="mend the file."
                )
            entry["runs"] = list(mark.runs)
        elif mark.polygons:
            entry["polygons"] = [[round(value, 3) for value in part] for part in mark.polygons]
        else:
            raise DataError(
                f"'{mark.label}' at {' '.join(f'{edge:g}' for edge in mark.box)} has no outline.",
                why="a box says nothing of its pixels.",
                fix="give it a segmentation, or a column of masks in a manifest.csv beside the pictures.",
            )
        entries.append(entry)
    return {SIZE: [height, width], MARKS: entries}


def read(cell: Mapping[str, Any], number_of: Callable[[str], int], ignored: int) -> np.ndarray:
    """A cell of ``written`` as a mask, int64 (height, width): 0 where nothing lies; of what lies over each other the smaller.

    Args:
        number_of: A label's number.
        ignored: The value of what does not count.

    Raises:
        DataError: It is none; or what ``number_of`` raises.
    """
    try:
        height, width = (int(side) for side in cell[SIZE])
        found = [
            (ignored if entry.get("ignored") else number_of(str(entry["label"])), _covered(entry, height, width)) for entry in cell[MARKS]
        ]
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as err:
        fix = "write {size: [height, width], marks: [{label: a, polygons: [[x, y, x, y, x, y]]}]}."
        raise DataError("the cell holds no outlines.", why=f"{err}.", fix=fix) from err
    mask = np.zeros((height, width), np.int64)
    for value, covered in sorted(found, key=lambda one: -int(one[1].sum())):
        mask[covered] = value
    return mask


def _covered(entry: Mapping[str, Any], height: int, width: int) -> np.ndarray:
    if entry.get("runs"):
        return _of_runs([int(run) for run in entry["runs"]], height, width)
    covered = np.zeros((height, width), bool)
    for part in entry["polygons"]:
        covered |= filled(np.asarray(part, np.float64).reshape(-1, 2), height, width)
    return covered


def filled(corners: np.ndarray, height: int, width: int) -> np.ndarray:
    """bool (height, width): the pixels whose middle lies in a polygon (corners, 2), x and y from the picture's edge; even-odd."""
    inside = np.zeros((height, width), bool)
    x, y = corners.T
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    first, last = max(0, int(np.floor(y.min() - 0.5))), min(height, int(np.ceil(y.max() + 0.5)))
    for row in range(first, last):
        middle = row + 0.5
        crosses = (y <= middle) != (next_y <= middle)
        at = np.sort(x[crosses] + (middle - y[crosses]) / (next_y[crosses] - y[crosses]) * (next_x[crosses] - x[crosses]))
        for left, right in zip(at[::2], at[1::2], strict=True):
            inside[row, max(0, int(np.ceil(left - 0.5))) : max(0, int(np.ceil(right - 0.5)))] = True
    return inside


def _of_runs(runs: Sequence[int], height: int, width: int) -> np.ndarray:
    """COCO's: how many pixels are not of it, how many are, and so on, down the columns from the left."""
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        raise ValueError(f"runs of {sum(runs)} pixels in a picture of {height * width}")
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    columns: np.ndarray = values.reshape(width, height).T
    return columns
