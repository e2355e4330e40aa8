"""What serving tells: one decision, the reading of each output, the classes that went on or off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

STANDS_S = 10.0


@dataclass(frozen=True)
class Sample:
    """What one input's branch gets.

    Attributes:
        array: One sample with its batch axis.
        time_s: When it ends, on the monotonic clock.
        arrived_s: When its last part came out of its source.
        frame: The picture it was made of, for whoever wants to see it.
        position: Where it begins in its stream, in samples of sound, or in steps for an input that has them: what two samples have in
            common stands at the same place. Over a gap it grows by more than a sample's length. None = no place in a stream.
    """

    array: np.ndarray
    time_s: float
    arrived_s: float
    frame: Any = None
    position: int | None = None


@dataclass(frozen=True)
class Box:
    """A thing in a picture: x0 y0 x1 y1 in its pixels, x to the right, y down, edges; ``score`` from 0 to 1."""

    label: str
    score: float
    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def area(self) -> float:
        return max(0.0, self.x1 - self.x0) * max(0.0, self.y1 - self.y0)


@dataclass(frozen=True)
class Point:
    """A named point of a thing, x and y in pixels of its picture, as ``Box``; ``score`` says how sure that it is there."""

    name: str
    score: float
    x: float
    y: float


@dataclass(frozen=True)
class Pose:
    """A thing in a picture by its points, in the card's order.

    Attributes:
        skeleton: Pairs of points, counted from 0, between which a line is drawn.
    """

    label: str
    score: float
    points: tuple[Point, ...]
    skeleton: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Mask:
    """What a picture shows, pixel by pixel.

    Attributes:
        labels: Names of the numbers.
        numbers: uint8 (height, width) over the whole picture, in whatever size: the number of the label at each place; 255 = not known.
    """

    labels: tuple[str, ...]
    numbers: np.ndarray = field(compare=False, repr=False)


@dataclass(frozen=True)
class Marks:
    """What an output tells of places in the picture of an input.

    Attributes:
        frame: The input.
        size: Width and height of its picture, in whose pixels points are.
        poses: Things that score as much as their label's threshold asks for, the best first.
        mask: Over the whole picture.
    """

    frame: str
    size: tuple[int, int]
    poses: tuple[Pose, ...] = ()
    mask: Mask | None = None


@dataclass(frozen=True)
class Observation:
    """What one answer of the model says of an output, before any threshold: scores of its classes, a number, or boxes.

    Attributes:
        scores: Class -> score, 0 to 1, in the card's order; None for a number.
        boxes: Things with their places, the best score first, in pixels of the camera's picture where its size was told, else of the
            model's.
        poses: Things with their points, in the same pixels.
        mask: Over the same picture.
    """

    scores: Mapping[str, float] | None = None
    value: float | None = None
    unit: str | None = None
    boxes: tuple[Box, ...] = ()
    poses: tuple[Pose, ...] = ()
    mask: Mask | None = None


@dataclass(frozen=True)
class Change:
    """A class that went on or off.

    Attributes:
        is_event: Worth telling: it went on, it is not a quiet class, and its cool-down is over.
    """

    output: str
    label: str
    is_on: bool
    score: float
    is_event: bool


@dataclass(frozen=True)
class Track:
    """Something that is followed from picture to picture.

    Attributes:
        id: ``<start>-<random>``: that of no other, also after a restart.
        label: What most of its boxes say, by their scores.
        score, best: Of its newest box, and the highest so far.
        box: The newest, in pixels of the camera's picture; ``label`` is that box's own.
        size: Width and height of that picture.
        began_s, seen_s: When its first and its newest box were seen, on the monotonic clock.
        began_wall_s: The first by the wall clock.
        zones, entered: Zones that it is in now, and all it ever was in.
        still_s: For how long it has hardly moved.
        moves: How often it has gone on from where it stood.
        is_seen: The newest picture shows it.
    """

    id: str
    output: str
    label: str
    score: float
    best: float
    box: Box
    size: tuple[int, int]
    began_s: float
    seen_s: float
    began_wall_s: float
    zones: tuple[str, ...] = ()
    entered: tuple[str, ...] = ()
    still_s: float = 0.0
    moves: int = 0
    is_seen: bool = True

    @property
    def seen_wall_s(self) -> float:
        """When its newest box was seen, by the wall clock."""
        return self.began_wall_s + self.seen_s - self.began_s

    @property
    def is_standing(self) -> bool:
        """Whether it has hardly moved for 10 s: Frigate's 50 pictures at 5 a second."""
        return self.still_s >= STANDS_S

    @property
    def relative(self) -> tuple[float, float, float, float]:
        """The box's edges as shares of the picture's width and height."""
        width, height = self.size
        return self.box.x0 / width, self.box.y0 / height, self.box.x1 / width, self.box.y1 / height


@dataclass(frozen=True)
class Incident:
    """What a track did.

    Attributes:
        place: The zone or line; None where something appeared.
        side: To which side of a line it went, seen from the line's first point towards its second.
    """

    kind: Literal["appeared", "entered", "left", "loitering", "crossed"]
    track: Track
    place: str | None = None
    side: Literal["left", "right"] | None = None


@dataclass(frozen=True)
class Tracked:
    """News of a track, at most one a second: it is new, it is in other zones, surer or called otherwise, it has ended.

    Attributes:
        before: As it was told last; None of a new one.
    """

    kind: Literal["new", "update", "end"]
    before: Track | None
    after: Track


@dataclass(frozen=True)
class Reading:
    """One output now.

    Attributes:
        label: The class that has led for ``debounce`` decisions; None for a number.
        scores: Class -> score of this moment, in the card's order.
        on: Classes that are on.
        value: The number of a regression, the likeness of a pair of embeddings; else None.
        moved: The number differs from the one told last.
        tracks: What is followed; None where the output has no boxes.
        marks: Points and mask; None where the output has none, or its picture did not vote.
    """

    label: str | None = None
    scores: Mapping[str, float] | None = None
    on: tuple[str, ...] = ()
    value: float | None = None
    unit: str | None = None
    moved: bool = False
    tracks: tuple[Track, ...] | None = None
    marks: Marks | None = None


@dataclass(frozen=True)
class GateNews:
    """A gate opened by itself, since skipping came to cost too much, or it shuts again.

    Attributes:
        input: Whose branch it is about.
        share: Of the skipped calls that decide otherwise with that input, 0 to 1.
    """

    input: str
    kind: Literal["gate_opened", "gate_shut"]
    share: float
    why: str


@dataclass(frozen=True)
class Decision:
    """One answer of the model.

    Attributes:
        number: Counts from 1.
        at_s: When the newest data it rests on ended, on the monotonic clock.
        wall_s: Wall clock, for people.
        voted: Inputs that were there.
        stood_in: Inputs that a stand-in replaced, or that the model was trained to do without.
        ages_s: Input that voted -> how old its data was.
        latency_ms: From the arrival of the newest data it rests on.
        frames: Input -> the picture of it that it rests on, those in which boxes, points or masks are first.
        embedded: Input -> what its branch made of it, for whoever watches drift.
        incidents: What tracks did at zones and lines.
        tracked: News of tracks.
        skipped: Inputs that are there and were not looked at: a gate says that they would change nothing.
        gates: News of gates.
    """

    number: int
    at_s: float
    wall_s: float
    readings: Mapping[str, Reading]
    changes: tuple[Change, ...]
    voted: tuple[str, ...]
    stood_in: tuple[str, ...]
    ages_s: Mapping[str, float]
    latency_ms: float
    frames: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    samples: Mapping[str, Sample] = field(default_factory=dict, compare=False, repr=False)
    embedded: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict, compare=False, repr=False)
    incidents: tuple[Incident, ...] = ()
    tracked: tuple[Tracked, ...] = ()
    skipped: tuple[str, ...] = ()
    gates: tuple[GateNews, ...] = ()

    @property
    def known(self) -> tuple[str, ...]:
        """Inputs that voted, and those that a gate left out: together they are as good as if all had voted, within its budget."""
        return (*self.voted, *self.skipped)
