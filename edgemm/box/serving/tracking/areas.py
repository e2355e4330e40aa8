"""Zones and lines of a camera's picture, and what tracks do at them.

The middle of a box's lower edge is tested, where somebody stands on the ground: a box half over a fence is not behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from edgemm.box.serving.tracking.settings import LineSettings, ZoneSettings

EDGE = 1e-6  # a box cut off by the picture's lower edge stands on it, and is in a zone that reaches as far


@dataclass(frozen=True)
class Step:
    """Something that a track did: ``edgemm.contracts.decision.Incident`` without its track."""

    kind: Literal["entered", "left", "loitering", "crossed"]
    place: str
    side: Literal["left", "right"] | None = None


@dataclass
class _Stay:
    """A track and a zone. ``count``: pictures in a row that say otherwise than ``is_in``, the first of them at ``first_s``."""

    is_in: bool = False
    count: int = 0
    first_s: float = 0.0
    since_s: float = 0.0
    told_loitering: bool = False


@dataclass
class _Side:
    """A track and a line. ``side``: +1 right of it, -1 left; ``count``: pictures in a row on the other side."""

    side: int = 0
    count: int = 0
    went_through: bool = False


@dataclass
class _Known:
    """What is kept of a track."""

    place: tuple[float, float] | None = None
    stays: dict[str, _Stay] = field(default_factory=dict)
    sides: dict[str, _Side] = field(default_factory=dict)


class Areas:
    """The zones and lines of one output."""

    def __init__(self, zones: Mapping[str, ZoneSettings], lines: Mapping[str, LineSettings]) -> None:
        self._zones, self._lines = zones, lines
        self._polygons = {name: np.array(zone.points, np.float64) for name, zone in zones.items()}
        self._known: dict[str, _Known] = {}

    def look(self, ids: Sequence[str], labels: Sequence[str], places: np.ndarray, at_s: float) -> dict[str, list[Step]]:
        """Take in where tracks stand in a picture.

        Args:
            places: (n, 2) middle of each box's lower edge, as shares of the picture's width and height.
            at_s: When the picture was taken, on the monotonic clock.

        Returns:
            Id -> what it did, in order; only of those that did something.
        """
        if not (self._zones or self._lines) or not len(ids):
            return {}
        places = np.clip(places, EDGE, 1 - EDGE)
        inside = {name: contains(polygon, places) for name, polygon in self._polygons.items()}
        steps: dict[str, list[Step]] = {}
        for index, (id, label) in enumerate(zip(ids, labels, strict=True)):
            known = self._known.setdefault(id, _Known())
            place = (float(places[index, 0]), float(places[index, 1]))
            did = [*self._crossed(known, place, label), *self._stays(known, {n: bool(i[index]) for n, i in inside.items()}, label, at_s)]
            known.place = place
            if did:
                steps[id] = did
        return steps

    def zones_of(self, id: str) -> tuple[str, ...]:
        """The zones that a track is in, in the settings' order."""
        known = self._known.get(id)
        return () if known is None else tuple(name for name, stay in known.stays.items() if stay.is_in)

    def forget(self, id: str) -> list[Step]:
        """A track has ended: it leaves its zones."""
        left = [Step("left", zone) for zone in self.zones_of(id)]
        self._known.pop(id, None)
        return left

    def _stays(self, known: _Known, inside: Mapping[str, bool], label: str, at_s: float) -> Iterator[Step]:
        for name, zone in self._zones.items():
            stay = known.stays.setdefault(name, _Stay())
            is_in = inside[name] and counts(zone.labels, label)
            if is_in == stay.is_in:
                stay.count = 0
            else:
                stay.first_s = stay.first_s if stay.count else at_s
                stay.count += 1
                if stay.count >= zone.inertia:
                    known.stays[name] = stay = _Stay(is_in, since_s=stay.first_s)
                    yield Step("entered" if is_in else "left", name)
            if stay.is_in and zone.loitering_s is not None and not stay.told_loitering and at_s - stay.since_s >= zone.loitering_s:
                stay.told_loitering = True
                yield Step("loitering", name)

    def _crossed(self, known: _Known, place: tuple[float, float], label: str) -> Iterator[Step]:
        for name, line in self._lines.items():
            one = known.sides.setdefault(name, _Side())
            now = _side(line.points, place)
            if one.side == 0 or now in (0, one.side):
                one.side, one.count = one.side or now, 0
                continue
            if one.count == 0:
                one.went_through = known.place is not None and _meet(line.points, (known.place, place))
            one.count += 1
            if one.count >= line.inertia:
                known.sides[name] = _Side(now)
                if one.went_through and counts(line.labels, label):
                    yield Step("crossed", name, "right" if now > 0 else "left")


def contains(polygon: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Whether each of ``points`` (n, 2) lies in ``polygon`` (v, 2): bool (n,), by the even-odd rule."""
    x, y = points[:, :1], points[:, 1:]
    (x0, y0), (x1, y1) = polygon.T, np.roll(polygon, -1, axis=0).T
    spans = (y0 > y) != (y1 > y)
    with np.errstate(divide="ignore", invalid="ignore"):  # level edges span nothing
        meets = x < x0 + (y - y0) * (x1 - x0) / (y1 - y0)
    odd: np.ndarray = np.count_nonzero(spans & meets, axis=1) % 2 == 1
    return odd


def crossing_edges(points: Sequence[Sequence[float]]) -> tuple[int, int] | None:
    """Numbers, from 1, of two edges of a polygon that cross each other; None where none do."""
    edges = [(points[index], points[(index + 1) % len(points)]) for index in range(len(points))]
    for first in range(len(edges)):
        for second in range(first + 2, len(edges)):
            is_neighbour = first == 0 and second == len(edges) - 1
            if not is_neighbour and _meet(edges[first], edges[second]):
                return first + 1, second + 1
    return None


def area(points: Sequence[Sequence[float]]) -> float:
    """Of a polygon (the shoelace formula)."""
    corners = np.array(points, np.float64)
    return float(abs(np.sum(corners[:, 0] * np.roll(corners[:, 1], -1) - np.roll(corners[:, 0], -1) * corners[:, 1])) / 2)


def counts(labels: Sequence[str] | None, label: str) -> bool:
    """Whether a place that names ``labels`` is for ``label``; one that names none is for all."""
    return labels is None or label in labels


def _side(line: Sequence[Sequence[float]], place: Sequence[float]) -> int:
    """+1 where ``place`` lies to the right of somebody who goes from the line's first point to its second, -1 left, 0 on it.

    y points down, so a positive turn is one to the right.
    """
    (x0, y0), (x1, y1) = line
    turn = (x1 - x0) * (place[1] - y0) - (y1 - y0) * (place[0] - x0)
    return (turn > 0) - (turn < 0)


def _meet(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> bool:
    """Whether two line segments meet; those on one line do not."""
    apart = [_side(one, other[0]) * _side(one, other[1]), _side(other, one[0]) * _side(other, one[1])]
    return apart[0] <= 0 and apart[1] <= 0 and any(_side(one, point) for point in other)
