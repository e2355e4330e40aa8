"""What a sink is: somewhere decisions go. Each runs in a thread of its own and may be slow; the loop never waits for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Protocol

from edgemm.contracts.card import Output
from edgemm.contracts.decision import Decision, GateNews, Incident, Marks, Pose, Track, Tracked
from edgemm.contracts.task import Entity


@dataclass(frozen=True)
class About:
    """What a sink is told at the start.

    Attributes:
        name: The device's name.
        model: The bundle's name.
        quiet: Output -> classes that are never an event.
        control: ``control(what, value)`` sets ``enabled``, ``modalities`` or ``threshold``; False where it cannot.
        threshold: What the settings say where no class has its own.
        gated: Inputs whose branch runs only where it can change the answer.
        zones: Output with boxes -> its zones -> the labels that each looks for.
        named: Output that is held against names -> what a home automation shows of it.
        settable: Output -> what can be set of it, as ``control("<output>/<what>", value)``.
    """

    name: str
    model: str
    version: str
    inputs: tuple[str, ...]
    outputs: Mapping[str, Output]
    quiet: Mapping[str, frozenset[str]]
    threshold: float
    control: Callable[[str, str], bool]
    zones: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    gated: tuple[str, ...] = ()
    named: Mapping[str, Sequence[Entity]] = field(default_factory=dict)
    settable: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    """A class went on, something that is followed did something, or a gate opened or shut by itself (then ``label`` is its input).

    Attributes:
        id: The same for every delivery of this event, and no other's.
        wall_s: When, by the wall clock.
        expected: The accuracy of this output that the bundle measured with these modalities; None where nobody measured it.
        alone: Input -> the score of this class by that input alone, where the bundle can tell; of something that is followed that of a
            box of its label at its place.
        shares: Input that voted -> what it added to ``score``, its Shapley share; they add up to the score less what the class gets on
            average. {} where nobody asked for them.
        jpeg: The picture it rests on, made when asked for; of something that is followed the part that shows it, its box drawn. None
            where there is none.
        incident: What was done; None where a class went on.
        marks: Points of the things of this class, and the mask; None where the output has none.
        gate: What a gate did; None where it is about an output.
        skipped: Inputs that a gate left out.
        is_like: The label is a name of a gallery, and the score the cosine with it: what is seen looks like that.
    """

    id: str
    output: str
    label: str
    score: float
    wall_s: float
    voted: tuple[str, ...]
    stood_in: tuple[str, ...]
    latency_ms: float
    expected: float | None = None
    alone: Mapping[str, float] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)
    jpeg: Callable[[], bytes] | None = field(default=None, compare=False, repr=False)
    incident: Incident | None = None
    marks: Marks | None = None
    gate: GateNews | None = None
    skipped: tuple[str, ...] = ()
    is_like: bool = False

    @property
    def kind(self) -> str:
        """What happened in a word: what a track or a gate did, or the class that went on."""
        return self.gate.kind if self.gate else self.incident.kind if self.incident else self.label

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without the picture."""
        return {
            "id": self.id,
            "time": stamp(self.wall_s),
            "output": self.output,
            "label": self.label,
            **({"looks_like": self.label} if self.is_like else {}),
            "score": round(self.score, 4),
            "voted": list(self.voted),
            "stood_in": list(self.stood_in),
            **({"skipped": list(self.skipped)} if self.skipped else {}),
            "expected_accuracy": self.expected,
            "alone": {name: round(score, 4) for name, score in self.alone.items()},
            **({"shares": {name: round(share, 4) for name, share in self.shares.items()}} if self.shares else {}),
            "latency_ms": round(self.latency_ms, 1),
            **(_incident_dict(self.incident) if self.incident else {}),
            **(marks_dict(self.marks) if self.marks else {}),
            **({"kind": self.gate.kind, "why": self.gate.why} if self.gate else {}),
        }


class Sink(Protocol):
    """A sink. A plugin class takes keyword-only options in ``__init__``: they are what ``run.yaml`` sets. ``PLACES`` says what it takes on
    the command line (``--sink PLACE``), as a source's does.

    All methods are called from one thread, in this order: ``start``, any of the next five, ``stop``. What one raises is counted and shown
    in the status; it stops nothing.
    """

    @classmethod
    def options_at(cls, place: str) -> dict[str, Any]:
        """The options that a place on the command line stands for.

        Raises:
            RunError: It is of no sense here.
        """
        return {}

    def start(self, about: About) -> None:
        """Called once. A sink may leave out this, ``status`` and ``stop``."""
        return

    def decision(self, decision: Decision) -> None:
        """The newest decision; those that came while the sink was busy are left out."""
        ...

    def event(self, event: Event) -> None:
        """Every event, in order."""
        ...

    def tracked(self, news: Tracked, voted: tuple[str, ...]) -> None:
        """News of something that is followed, in order; ``voted`` are the inputs that were there. A sink may leave it out."""
        return

    def status(self, status: Mapping[str, Any]) -> None:
        """How it goes; every few seconds, and whenever a source goes up or down."""
        return

    def changed(self, about: About) -> None:
        """What can be told is another now: a name or word came or went. A sink may leave it out."""
        return

    def stop(self) -> None:
        """Called once; may take two seconds to send what is left."""
        return


def stamp(wall_s: float) -> str:
    """A time as ISO 8601, UTC, to the millisecond."""
    return datetime.fromtimestamp(wall_s, timezone.utc).isoformat(timespec="milliseconds")


def track_dict(track: Track) -> dict[str, Any]:
    """A track as plain values: its box in pixels of the camera's picture, and as shares of its size."""
    box = track.box
    return {
        "id": track.id,
        "label": track.label,
        "score": round(track.score, 4),
        "best": round(track.best, 4),
        "box": [round(edge, 1) for edge in (box.x0, box.y0, box.x1, box.y1)],
        "box_relative": [round(edge, 5) for edge in track.relative],
        "size": list(track.size),
        "zones": list(track.zones),
        "entered": list(track.entered),
        "began": stamp(track.began_wall_s),
        "age_s": round(track.seen_s - track.began_s, 2),
        "standing": track.is_standing,
    }


def marks_dict(marks: Marks) -> dict[str, Any]:
    """Points as plain values, in pixels of the camera's picture and as shares of its size. Of a mask scores tell the labels' shares."""
    about = {"frame": marks.frame, "size": list(marks.size)}
    return about if marks.mask is not None else about | {"poses": [_pose_dict(pose, marks.size) for pose in marks.poses]}


def _pose_dict(pose: Pose, size: tuple[int, int]) -> dict[str, Any]:
    points = [
        {
            "name": point.name,
            "score": round(point.score, 4),
            "at": [round(point.x, 1), round(point.y, 1)],
            "at_relative": [round(point.x / size[0], 5), round(point.y / size[1], 5)],
        }
        for point in pose.points
    ]
    return {"label": pose.label, "score": round(pose.score, 4), "points": points}


def _incident_dict(incident: Incident) -> dict[str, Any]:
    place = {} if incident.place is None else {"line" if incident.side else "zone": incident.place}
    return {"kind": incident.kind, **place, **({"side": incident.side} if incident.side else {}), "track": track_dict(incident.track)}


def decision_dict(decision: Decision) -> dict[str, Any]:
    """A decision as plain values."""
    outputs: dict[str, Any] = {}
    for name, reading in decision.readings.items():
        if reading.tracks is not None:
            scores = {label: round(score, 4) for label, score in (reading.scores or {}).items()}
            tracks = [track_dict(track) for track in reading.tracks]
            outputs[name] = {"tracks": tracks, "on": list(reading.on), "scores": scores}
        elif reading.scores is None:
            outputs[name] = {"value": reading.value} | ({"unit": reading.unit} if reading.unit else {})
        else:
            scores = {label: round(score, 4) for label, score in reading.scores.items()}
            marks = marks_dict(reading.marks) if reading.marks else {}
            outputs[name] = {"label": reading.label, "on": list(reading.on), "scores": scores, **marks}
    return {
        "number": decision.number,
        "time": stamp(decision.wall_s),
        "outputs": outputs,
        "voted": list(decision.voted),
        "stood_in": list(decision.stood_in),
        **({"skipped": list(decision.skipped)} if decision.skipped else {}),
        "ages_ms": {name: round(age * 1000) for name, age in decision.ages_s.items()},
        "latency_ms": round(decision.latency_ms, 1),
    }
