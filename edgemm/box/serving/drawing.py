"""Boxes, zones, lines, points and masks drawn on pictures, in numpy: a box has no other means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from zlib import crc32

import numpy as np

from edgemm.contracts.decision import Marks, Mask, Point, Pose, Track
from edgemm.contracts.source import Frame, Paint, Region

COLOURS = ((230, 60, 50), (50, 140, 240), (40, 180, 90), (250, 170, 30), (170, 90, 230), (20, 190, 200), (240, 90, 170), (150, 190, 40))
AREA = (255, 255, 255)
MARGIN = 0.3  # of a box's size, around it in a cropped picture
TINT = 0.4  # of a mask's colour over the picture
SURE = 0.3  # a point that scores less is not drawn: one that is not there has a place, too
LEAST = 0.25  # of the picture's width that is shown at least: less says nothing of where it is

Shape = Sequence[Sequence[float]]
"""Corners of a polygon, or the two ends of a line; shares of the picture's width and height."""


def colour(label: str) -> tuple[int, int, int]:
    """The colour of a label, the same in every picture."""
    return COLOURS[crc32(label.encode()) % len(COLOURS)]


def mask_colours(labels: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """The colours of a mask's labels: of as many as there are colours no two have the same, as labels by their names could."""
    return {label: COLOURS[number % len(COLOURS)] for number, label in enumerate(labels)}


def drawable(pose: Pose, size: tuple[int, int]) -> list[Point]:
    """Its points that are sure enough, and in a picture of this width and height; an answer may lie anywhere."""
    return [point for point in pose.points if point.score >= SURE and 0 <= point.x <= size[0] and 0 <= point.y <= size[1]]


def scene(tracks: Iterable[Track], shapes: Iterable[Shape] = (), marks: Iterable[Marks] = ()) -> Paint:
    """Draws masks, the outlines of zones and lines, the boxes of tracks, and points with their skeleton on a whole picture."""
    boxes = [(track.relative, colour(track.label)) for track in tracks]
    outlines, marked = list(shapes), list(marks)

    def paint(array: np.ndarray) -> None:
        for one in marked:
            if one.mask is not None:
                _tint(array, one.mask)
        for outline in outlines:
            _outline(array, outline)
        for (x0, y0, x1, y1), own in boxes:
            _rectangle(array, (x0, y0, x1, y1), own)
        for one in marked:
            for pose in one.poses:
                _skeleton(array, pose, one.size)

    return paint


def cropped(frame: Frame, track: Track, width: int) -> bytes:
    """JPEG of a track's box and what is around it, the box drawn, at most ``width`` pixels wide."""
    x0, y0, x1, y1 = region = around(track)
    box = track.box
    wide, high = x1 - x0, y1 - y0
    relative = (box.x0 - x0) / wide, (box.y0 - y0) / high, (box.x1 - x0) / wide, (box.y1 - y0) / high
    return frame.jpeg(width, region=region, paint=lambda array: _rectangle(array, relative, colour(track.label)))


def around(track: Track) -> Region:
    """The part of the picture that shows a track: its box and a margin, not less than a quarter of the picture each way."""
    width, height = track.size
    across = _reach(track.box.x0, track.box.x1, width)
    down = _reach(track.box.y0, track.box.y1, height)
    return across[0], down[0], across[1], down[1]


def _reach(low: float, high: float, most: int) -> tuple[int, int]:
    length = min(most, max(round((high - low) * (1 + 2 * MARGIN)), round(most * LEAST), 2))
    begin = min(max(0, round((low + high - length) / 2)), most - length)
    return begin, begin + length


def _rectangle(array: np.ndarray, relative: tuple[float, float, float, float], own: tuple[int, int, int]) -> None:
    height, width = array.shape[:2]
    thick = _thickness(array)
    x0, x1 = (min(max(round(x * width), 0), width) for x in (relative[0], relative[2]))
    y0, y1 = (min(max(round(y * height), 0), height) for y in (relative[1], relative[3]))
    array[y0 : min(y0 + thick, y1), x0:x1] = own
    array[max(y1 - thick, y0) : y1, x0:x1] = own
    array[y0:y1, x0 : min(x0 + thick, x1)] = own
    array[y0:y1, max(x1 - thick, x0) : x1] = own


def _outline(array: np.ndarray, shape: Shape) -> None:
    ends = [(shape[index], shape[(index + 1) % len(shape)]) for index in range(len(shape) if len(shape) > 2 else 1)]
    for (x0, y0), (x1, y1) in ends:
        _line(array, (x0, y0, x1, y1), AREA)


def _tint(array: np.ndarray, mask: Mask) -> None:
    """Lay the labels' colours over a picture, the mask stretched over all of it; what is not known stays."""
    rows, columns = ((np.arange(size) * own) // size for size, own in zip(array.shape[:2], mask.numbers.shape, strict=True))
    numbers = mask.numbers[rows[:, None], columns]
    colours = np.array(list(mask_colours(mask.labels).values()), np.float32)
    known = numbers < len(colours)
    array[known] = np.rint(array[known] * (1 - TINT) + colours[numbers[known]] * TINT).astype(np.uint8)


def _skeleton(array: np.ndarray, pose: Pose, size: tuple[int, int]) -> None:
    own = colour(pose.label)
    drawn = drawable(pose, size)
    places = [(point.x / size[0], point.y / size[1]) if point in drawn else None for point in pose.points]
    for one, other in pose.skeleton:
        begin, end = places[one], places[other]
        if begin and end:
            _line(array, (*begin, *end), own)
    for place in places:
        if place:
            _dot(array, place, own)


def _dot(array: np.ndarray, relative: tuple[float, float], own: tuple[int, int, int]) -> None:
    """A square with a rim."""
    height, width = array.shape[:2]
    x, y, reach = round(relative[0] * width), round(relative[1] * height), 2 * _thickness(array)
    for far, shade in ((reach, AREA), (reach - _thickness(array), own)):
        array[max(0, y - far) : max(0, y + far), max(0, x - far) : max(0, x + far)] = shade


def _line(array: np.ndarray, relative: tuple[float, float, float, float], own: tuple[int, int, int]) -> None:
    height, width = array.shape[:2]
    x0, y0, x1, y1 = relative[0] * (width - 1), relative[1] * (height - 1), relative[2] * (width - 1), relative[3] * (height - 1)
    steps = int(max(abs(x1 - x0), abs(y1 - y0))) + 1
    x, y = np.rint(np.linspace(x0, x1, steps + 1)).astype(int), np.rint(np.linspace(y0, y1, steps + 1)).astype(int)
    for shift in range(_thickness(array)):
        array[np.clip(y + shift, 0, height - 1), x] = own
        array[y, np.clip(x + shift, 0, width - 1)] = own


def _thickness(array: np.ndarray) -> int:
    return max(1, round(float(array.shape[1]) / 320))
