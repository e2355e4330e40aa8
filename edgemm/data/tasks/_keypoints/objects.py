"""Objects with points in the cells of a dataset: ``label x y v x y v ...; ...`` in pixels of the file, ``-`` where there are none."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgemm.contracts.marks import Mark
from edgemm.data import labels as cells
from edgemm.data.boxes.cells import BETWEEN, NOTHING, number
from edgemm.errors import DataError

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
HIDDEN, SEEN = 1, 2
"""COCO's visibility: 0 = nobody knows where the point is, 1 = it is there and hidden, 2 = it can be seen."""


@dataclass(frozen=True)
class Thing:
    """One object of a picture.

    Attributes:
        label: Its place among the labels.
        points: float64 (points, 3), x and y from the picture's edge in pixels, and the visibility.
        box: (4,) x0 y0 x1 y1; as a cell says it, else around the points that are known.
    """

    label: int
    points: np.ndarray
    box: np.ndarray


def things(cell: Any, labels: tuple[str, ...], points: Sequence[str], output: str) -> list[Thing]:
    """What stands in a cell: text, a list of such texts, or an array (n, 1 + 3 * points): label number, then x, y, visibility.

    Before the points four more numbers may stand, the edges of the object's box.

    Raises:
        DataError: The cell is empty or cannot be read; does not name the row.
    """
    if cells.is_empty(cell):
        raise DataError(
            "the cell is empty.", why="whether somebody looked cannot be told.", fix=f"write '{NOTHING}' where there is nothing."
        )
    if isinstance(cell, str) and cell.strip() == NOTHING:
        return []
    found = [_thing(entry, labels, points, output) for entry in cells.items(cell, ";")]
    for entry, other in _pairs(found):
        if entry.label == other.label and np.array_equal(entry.points, other.points):
            raise DataError(f"'{labels[entry.label]}' stands there twice with the same points.", fix="remove one of them.")
    return found


def written(marks: Sequence[Mark], points: Sequence[str]) -> str:
    """The cell of a picture with these marks. Of a crowd, and of what has a box alone, no point is known: it is neither right nor wrong.

    Raises:
        DataError: A mark has another number of points.
    """
    entries = []
    for mark in marks:
        values = (0.0,) * (3 * len(points)) if mark.ignored or not mark.points else mark.points
        if len(values) != 3 * len(points):
            raise DataError(
                f"'{mark.label}' has {len(values) / 3:g} points.",
                why=f"the card names {len(points)}: {', '.join(points)}.",
                fix="list the set's points in the card, in their order.",
            )
        entries.append(" ".join([mark.label, *map(number, (*mark.box, *values))]))
    return f"{BETWEEN} ".join(entries) or NOTHING


def _thing(cell: Any, labels: tuple[str, ...], points: Sequence[str], output: str) -> Thing:
    entry = cell if isinstance(cell, str) else " ".join(f"{value:g}" for value in np.ravel(cell))
    word, numbers = _parted(entry)
    count = 3 * len(points)
    if len(numbers) not in (count, count + 4):
        raise DataError(
            f"'{_short(entry)}' has {len(numbers)} numbers after the label.",
            why=f"outputs.{output}.points lists {len(points)}: {', '.join(points)}; x, y and visibility of each make {count}.",
            fix=f"write label x y v ..., {count} numbers, or the edges of the object's box (x0 y0 x1 y1) before them.",
        )
    label = cells.index_of(word, labels, output)
    values = np.array(numbers, np.float64)
    places = values[-count:].reshape(-1, 3)
    strange = np.setdiff1d(places[:, 2], (0, HIDDEN, SEEN))
    if len(strange):
        raise DataError(
            f"'{_short(entry)}' says visibility {strange[0]:g}.",
            why="0 = not known, 1 = hidden, 2 = seen, as in COCO; the numbers of a point are x, y, visibility.",
            fix="mend the cell.",
        )
    known = places[places[:, 2] > 0, :2]
    if not len(known) and len(numbers) == count:
        raise DataError(f"'{_short(entry)}' has no point that is known.", fix="write the edges of its box before the points, or remove it.")
    box = values[:4] if len(numbers) > count else np.concatenate([known.min(axis=0), known.max(axis=0)])
    if len(numbers) > count and not (box[2:] > box[:2]).all():
        raise DataError(f"'{_short(entry)}' has a box of no area: {' '.join(f'{edge:g}' for edge in box)}.", fix="write x0 y0 x1 y1.")
    return Thing(label, places, box)


def _parted(entry: str) -> tuple[str, list[float]]:
    """The word that an entry begins with, whatever that is, and the numbers behind it."""
    parts = re.split(r"[\s,]+", entry.strip())
    first = next((place + 1 for place in range(len(parts) - 1, 0, -1) if not NUMBER.fullmatch(parts[place])), 1)
    return " ".join(parts[:first]), [float(part) for part in parts[first:]]


def _pairs(found: list[Thing]) -> Iterator[tuple[Thing, Thing]]:
    return ((entry, other) for number, entry in enumerate(found) for other in found[:number])


def _short(entry: str) -> str:
    return entry if len(entry) < 60 else f"{entry[:57]}..."
