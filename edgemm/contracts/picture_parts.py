"""What a report shows of single pictures: what is there, and what was answered before and after compression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A thing in a picture; places are shares of its width and height, x to the right, y down.

    Attributes:
        score: None = it is the truth.
        box: x0, y0, x1, y1; () where it has none.
        points: x and y of each.
        lines: Pairs of points, counted from 0.
    """

    label: str
    score: float | None = None
    box: Sequence[float] = ()
    points: Sequence[Sequence[float]] = ()
    lines: Sequence[Sequence[int]] = ()


@dataclass(frozen=True)
class Panel:
    """One form's answer.

    Attributes:
        title: Whose.
        quality: How well it answered, 0 to 1; None of the truth.
        jpeg: The picture in base64, with its mask painted on; "" = that of the first panel.
    """

    title: str
    quality: float | None = None
    jpeg: str = ""
    shapes: Sequence[Shape] = ()


@dataclass(frozen=True)
class SamplePicture:
    """A picture of the test rows.

    Attributes:
        row: Its number as a person counts.
        why: What it is shown for.
        width, height: In pixels of the model.
    """

    row: int
    why: str
    width: int
    height: int
    panels: Sequence[Panel]
