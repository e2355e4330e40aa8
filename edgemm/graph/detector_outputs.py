"""Which outputs of an ONNX file hold a detector's boxes, scores and objectness, by their shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from edgemm.data.boxes.layout import BINS, BOXES, JOINED, OBJECTNESS, SCORED

Shape = tuple[int, ...]
PYRAMID = (4, 8, 16, 32, 64, 128)
BOX = 4
PLACES = 20  # fewer rows of four numbers may be anything
ANCHORS = (1, 2, 3, 9)  # boxes of a place
CALLED_BOXES = re.compile("box|reg|loc|dist|dfl", re.IGNORECASE)
CALLED_SURE = re.compile("obj|conf", re.IGNORECASE)
CALLED_POINTS = re.compile("kps|kpt|point|landm", re.IGNORECASE)


def parts_of(shapes: Mapping[str, Shape], size: tuple[int, int]) -> dict[str, list[str]] | None:
    """Which outputs hold boxes, scores, objectness, or all of it, level by level; None where none do.

    Args:
        shapes: Output -> shape, rows first.
        size: Height and width of the picture.
    """
    tables = {name: entry for name, shape in shapes.items() if (entry := table(shape, size))}
    levels = dict.fromkeys(sorted({places for places, _ in tables.values()}, reverse=True))
    if len(levels) == 1:
        tables = {name: entry for name, entry in tables.items() if len(shapes[name]) == 3}  # one map alone is a mask or features
    else:
        grids = {places: stride for stride in PYRAMID if (places := _places(size, [stride]))}
        tables = {name: table for name, table in tables.items() if table[0] in grids}
        levels = {places: None for places in levels if places in grids}
    whole = _groups({name: tables[name] for name in sorted(tables, key=lambda name: -tables[name][0])}, list(levels))
    places = sum(levels)
    is_grid = len(levels) > 1 or any(places % count == 0 and strides_of(size, [places // count]) for count in ANCHORS)
    return _chosen(whole, {name: width for name, (_, width) in tables.items()}, is_grid)


def table(shape: Shape, size: tuple[int, int]) -> tuple[int, int] | None:
    """Places and numbers a place of a tensor; None where it is no table of places."""
    if len(shape) == 4:
        for axes, width in ((shape[2:], shape[1]), (shape[1:3], shape[3])):
            if any(_grid(size, stride) == tuple(axes) for stride in PYRAMID):
                return axes[0] * axes[1], width
    if len(shape) == 3:
        places, width = max(shape[1:]), min(shape[1:])
        return (places, width) if places >= PLACES and places > width else None
    return None


def strides_of(size: tuple[int, int], places: Sequence[int]) -> list[int]:
    """The strides of the levels that have so many places, or of a pyramid that has them all; [] where none has."""
    if len(places) > 1:
        grids = {_places(size, [stride]): stride for stride in reversed(PYRAMID)}
        return [grids[count] for count in places if count in grids]
    pyramids = [list(PYRAMID[a:b]) for a in range(len(PYRAMID)) for b in range(a + 1, len(PYRAMID) + 1)]
    return next((strides for strides in pyramids if _places(size, strides) == places[0]), [])


def _groups(tables: Mapping[str, tuple[int, int]], levels: Sequence[int]) -> list[list[str]]:
    """Outputs of one width, one a level; where a width has more, those that are called alike."""
    by_width: dict[int, list[str]] = {}
    for name, (_, width) in tables.items():
        by_width.setdefault(width, []).append(name)
    groups: list[list[str]] = []
    for names in by_width.values():
        alike: dict[str, list[str]] = {}
        for name in names:
            alike.setdefault("" if len(names) == len(levels) else _stem(name), []).append(name)
        groups += alike.values()
    return [names for names in groups if [tables[name][0] for name in names] == list(levels)]


def _chosen(groups: Sequence[list[str]], widths: Mapping[str, int], is_grid: bool) -> dict[str, list[str]] | None:
    """The groups of outputs, one a level, that hold what a detector says."""
    boxes = [names for names in groups if _is_boxes(names[0], widths[names[0]], is_grid)]
    boxes.sort(key=lambda names: not CALLED_BOXES.search(names[0]))
    if boxes:
        others = [names for names in groups if names is not boxes[0] and not CALLED_POINTS.search(names[0])]
        sure = [names for names in others if widths[names[0]] == 1 and CALLED_SURE.search(names[0])]
        scores = [names for names in others if names not in sure]
        if scores:
            return {BOXES: boxes[0], SCORED: scores[0]} | ({OBJECTNESS: sure[0]} if sure else {})
        return None
    joined = [names for names in groups if widths[names[0]] > BOX and is_grid]
    return {JOINED: joined[0]} if len(joined) == 1 else None


def _is_boxes(name: str, width: int, is_grid: bool) -> bool:
    """Four numbers; or four distributions, whose places must be a grid's."""
    return width == BOX or (is_grid and width % BOX == 0 and (width == BOX * BINS or bool(CALLED_BOXES.search(name))))


def _stem(name: str) -> str:
    """A name without what tells its level."""
    return re.sub(r"\d+", "", name)


def _places(size: tuple[int, int], strides: Sequence[int]) -> int:
    return sum(high * wide for high, wide in (_grid(size, stride) for stride in strides))


def _grid(size: tuple[int, int], stride: int) -> tuple[int, int]:
    return -(-size[0] // stride), -(-size[1] // stride)
