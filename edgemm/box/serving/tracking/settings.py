"""What ``run.yaml`` says of tracks, zones and lines."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class TrackSettings:
    """How an output's boxes are followed.

    Attributes:
        threshold: Score from which a box begins a track (0 to 1); None = as the bundle found it on val, else 0.5.
        release: Score from which a box keeps a track that is there.
        thresholds: Label -> its own threshold.
        hits: Boxes after which a track is born; before, it may be a false alarm.
        lost_s: A track ends after so long without a box; None = 3 periods of its pictures, at least 1 s.
        quiet: Labels that are followed and counted, but never an event.
    """

    threshold: float | None = None
    release: float = 0.1
    thresholds: dict[str, float] = field(default_factory=dict)
    hits: int = 3
    lost_s: float | None = None
    quiet: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ZoneSettings:
    """A part of a camera's picture.

    Attributes:
        points: Corners, x and y as shares of the picture's width and height, from its upper left.
        labels: What it looks for; None = every label.
        inertia: Pictures in a row that must agree before something is in it, or out of it.
        loitering_s: Who stays for so long loiters; None = nobody does.
        output: Whose boxes; None = those of the only output that has some.
    """

    points: list[list[float]]
    labels: list[str] | None = None
    inertia: int = 3
    loitering_s: float | None = None
    output: str | None = None


@dataclass(frozen=True)
class LineSettings:
    """A line across a camera's picture: two points; the rest as a zone's."""

    points: list[list[float]]
    labels: list[str] | None = None
    inertia: int = 3
    output: str | None = None
