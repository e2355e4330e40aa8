"""What somebody marked in a picture, whatever the format it was written in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mark:
    """One thing in a picture; x to the right, y down, in pixels of the file.

    Attributes:
        box: x0, y0, x1, y1, edges: a box over a whole picture of 96 pixels is 0 0 96 96.
        ignored: Neither to be found nor wrong to find: a crowd, or too hard to tell.
        points: x, y and visibility (0 = not marked, 1 = hidden, 2 = seen) of each keypoint.
        polygons: x, y of the corners of each part of its outline.
        runs: Pixels that are not of it, that are, and so on, down the columns from the left.
        run_size: Height and width of the picture that ``runs`` are of.
    """

    label: str
    box: tuple[float, float, float, float]
    ignored: bool = False
    points: tuple[float, ...] = ()
    polygons: tuple[tuple[float, ...], ...] = ()
    runs: tuple[int, ...] = ()
    run_size: tuple[int, int] = (0, 0)

    def scaled(self, width: float, height: float) -> Mark:
        """The mark in a picture of so many pixels, where its own numbers are parts of it."""
        x0, y0, x1, y1 = self.box
        points = tuple(value * (width, height, 1)[index % 3] for index, value in enumerate(self.points))
        polygons = tuple(tuple(value * (width, height)[index % 2] for index, value in enumerate(part)) for part in self.polygons)
        return Mark(self.label, (x0 * width, y0 * height, x1 * width, y1 * height), self.ignored, points, polygons)
