"""Boxes in the cells of a dataset: ``label x0 y0 x1 y1; ...`` in pixels of the file, ``-`` where nothing was found."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgemm.contracts.marks import Mark
from edgemm.data import labels as names
from edgemm.errors import DataError

NOTHING = "-"
BETWEEN = ";"
IGNORED = "ignored"
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
BOX = re.compile(rf"(?P<label>.+?)\s+(?P<numbers>{NUMBER}(?:[\s,]+{NUMBER}){{3}})(?P<ignored>\s+{IGNORED})?")
FIX = "write label x0 y0 x1 y1; label x0 y0 x1 y1, in pixels of the file, or - where there is nothing."
OUTSIDE = 1.0  # pixels that a box may lie beyond the picture: of rounding, and of tools that count from 1
LEAST_KEPT = 0.1  # of a box that a crop cuts: what keeps less is no truth any more


def words(cell: Any) -> list[str]:
    """Names of the labels in a cell."""
    if isinstance(cell, np.ndarray):
        return []
    return [names.composed(label.strip()) for label, _, _ in _entries(cell)]


def read(cell: Any, labels: tuple[str, ...] | None, output: str) -> np.ndarray:
    """The boxes of a cell in pixels of the file.

    Args:
        cell: Text; or an array (n, 5) or (n, 6): label index, x0, y0, x1, y1, ignored.

    Returns:
        float64 (n, 6): label index, x0, y0, x1, y1, and 1 where the box is not to be scored (``label x0 y0 x1 y1 ignored``).

    Raises:
        DataError: It is empty, or none of that; an unknown label; a box without area, or there twice.
    """
    if isinstance(cell, np.ndarray) and cell.dtype.kind in "fiu" and cell.ndim == 2 and cell.shape[1] in (5, 6):
        boxes = np.zeros((len(cell), 6))
        boxes[:, : cell.shape[1]] = cell
        if len(boxes) and not (np.isfinite(boxes).all() and 0 <= boxes[:, 0].min() <= boxes[:, 0].max() < len(labels or ())):
            raise DataError("a box has a label index that no label has, or a number that is none.", fix="mend the array.")
    else:
        known = names.require_labels(labels, output)
        rows = [[names.index_of(label, known, output), *numbers, ignored] for label, numbers, ignored in _entries(cell)]
        boxes = np.array(rows, np.float64).reshape(-1, 6)
    _check(boxes)
    return boxes


def require_inside(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """``read``'s boxes drawn to the edges of the picture they are in.

    Raises:
        DataError: One lies outside; or all are of 1 where pixels are wanted.
    """
    edges = boxes[:, 1:5]
    if len(edges) and edges.max() <= 1.0 and min(width, height) > 2 and (edges % 1).any():
        raise DataError(
            f"the boxes end at {edges.max():g} in a picture of {width} x {height} pixels.",
            why="they are parts of the picture, and pixels are wanted.",
            fix=f"multiply x by {width} and y by {height}.",
        )
    for _, x0, y0, x1, y1, _ in boxes:
        if min(x0, y0) < -OUTSIDE or x1 > width + OUTSIDE or y1 > height + OUTSIDE:
            raise DataError(
                f"the box {x0:g} {y0:g} {x1:g} {y1:g} lies outside of its picture.",
                why=f"that is {width} x {height} pixels, upright.",
                fix="mend the box; it is x0 y0 x1 y1, x to the right, y down, in pixels of the file.",
            )
    inside = boxes.copy()
    inside[:, 1:5] = np.clip(edges, 0, [width, height, width, height])
    return inside


def written(marks: Sequence[Mark], width: int, height: int) -> str:
    """The cell of a picture of ``width`` x ``height`` pixels.

    Raises:
        DataError: A box lies outside, has no area or stands there twice; or a label cannot stand in a cell.
    """
    known = tuple(dict.fromkeys(mark.label for mark in marks))
    parted = [label for label in known if BETWEEN in label]
    if parted:
        raise DataError(f"the label '{parted[0]}' has a '{BETWEEN}'.", why="that stands between boxes.", fix="rename it.")
    boxes = np.array([[known.index(mark.label), *mark.box, mark.ignored] for mark in marks], np.float64).reshape(-1, 6)
    require_inside(read(boxes, known, ""), width, height)
    entries = [" ".join([mark.label, *map(number, mark.box), *[IGNORED] * mark.ignored]) for mark in marks]
    return f"{BETWEEN} ".join(entries) or NOTHING


def number(value: float) -> str:
    """Hundredths of a pixel: the six digits of a ratio, as YOLO's files have, say no more."""
    return f"{round(value, 2) + 0.0:.2f}".rstrip("0").rstrip(".")


def padded(boxes: Sequence[Sequence[float]] | np.ndarray, rows: int) -> np.ndarray:
    """Boxes as a truth: float32 (rows, 6), filled up with rows of label -1.

    Raises:
        DataError: There are more.
    """
    if len(boxes) > rows:
        raise DataError(
            f"it holds {len(boxes)} boxes.", why=f"the card has room for {rows}.", fix=f"set truths: {len(boxes)} in the card's output."
        )
    truth = np.zeros((rows, 6), np.float32)
    truth[:, 0] = -1
    truth[: len(boxes)] = np.asarray(boxes, np.float32).reshape(-1, 6)
    return truth


def _entries(cell: Any) -> list[tuple[str, list[float], bool]]:
    if names.is_empty(cell):
        raise DataError("the cell is empty.", why="nobody says whether anybody looked.", fix="write - where there is nothing, or fill it.")
    if not isinstance(cell, str):
        raise DataError(f"it holds {type(cell).__name__} {cell!r:.60}.", why="boxes are text, or an array (n, 5).", fix=FIX)
    if cell.strip() == NOTHING:
        return []
    entries = []
    for text in cell.split(BETWEEN):
        if not text.strip():
            continue
        match = BOX.fullmatch(text.strip())
        if match is None:
            raise DataError(f"'{text.strip()}' is no box.", fix=FIX)
        entries.append((match["label"], [float(word) for word in re.split(r"[\s,]+", match["numbers"])], bool(match["ignored"])))
    if not entries:
        raise DataError(f"'{cell}' holds no box.", fix=FIX)
    return entries


def _check(boxes: np.ndarray) -> None:
    for _, x0, y0, x1, y1, _ in boxes:
        if not (x1 > x0 and y1 > y0):
            raise DataError(
                f"the box {x0:g} {y0:g} {x1:g} {y1:g} has no area.",
                why="x1 lies to the right of x0, and y1 below y0.",
                fix="remove it, or mend it: it is x0 y0 x1 y1, not x y width height.",
            )
    _, first, count = np.unique(boxes[:, :5], axis=0, return_index=True, return_counts=True)
    if (count > 1).any():
        _, x0, y0, x1, y1, _ = boxes[first[count.argmax()]]
        raise DataError(f"the box {x0:g} {y0:g} {x1:g} {y1:g} stands there twice.", why="with one label.", fix="remove one of the two.")
