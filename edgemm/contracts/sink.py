"""What a sink is: somewhere decisions go. Each runs in a thread of its own and may be slow; the loop never waits for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Protocol

from edgemm.contracts.card import Output
from edgemm.contracts.decision import Decision


@dataclass(frozen=True)
class About:
    """What a sink is told at the start.

    Attributes:
        name: The device's name.
        model: The bundle's name.
        quiet: Output -> classes that are never an event.
        control: ``control(what, value)`` sets ``enabled``, ``modalities`` or ``threshold``; False where it cannot.
        threshold: What the settings say where no class has its own.
    """

    name: str
    model: str
    version: str
    inputs: tuple[str, ...]
    outputs: Mapping[str, Output]
    quiet: Mapping[str, frozenset[str]]
    threshold: float
    control: Callable[[str, str], bool]


@dataclass(frozen=True)
class Event:
    """A class went on.

    Attributes:
        id: The same for every delivery of this event, and no other's.
        wall_s: When, by the wall clock.
        expected: The accuracy of this output that the bundle measured with these modalities; None where nobody measured it.
        alone: Input -> the score of this class by that input alone, where the bundle can tell.
        jpeg: The picture it rests on, made when asked for; None where there is none.
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
    jpeg: Callable[[], bytes] | None = field(default=None, compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without the picture."""
        return {
            "id": self.id,
            "time": stamp(self.wall_s),
            "output": self.output,
            "label": self.label,
            "score": round(self.score, 4),
            "voted": list(self.voted),
            "stood_in": list(self.stood_in),
            "expected_accuracy": self.expected,
            "alone": {name: round(score, 4) for name, score in self.alone.items()},
            "latency_ms": round(self.latency_ms, 1),
        }


class Sink(Protocol):
    """A sink. A plugin class takes keyword-only options in ``__init__``: they are what ``run.yaml`` sets. ``PLACES`` says what it takes on
    the command line (``--sink PLACE``), as a source's does.

    All methods are called from one thread, in this order: ``start``, any of the next three, ``stop``. What one raises is counted and shown
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
        """Called once."""
        ...

    def decision(self, decision: Decision) -> None:
        """The newest decision; those that came while the sink was busy are left out."""
        ...

    def event(self, event: Event) -> None:
        """Every event, in order."""
        ...

    def status(self, status: Mapping[str, Any]) -> None:
        """How it goes; every few seconds, and whenever a source goes up or down."""
        ...

    def stop(self) -> None:
        """Called once; may take two seconds to send what is left."""
        ...


def stamp(wall_s: float) -> str:
    """A time as ISO 8601, UTC, to the millisecond."""
    return datetime.fromtimestamp(wall_s, timezone.utc).isoformat(timespec="milliseconds")


def decision_dict(decision: Decision) -> dict[str, Any]:
    """A decision as plain values."""
    outputs: dict[str, Any] = {}
    for name, reading in decision.readings.items():
        if reading.scores is None:
            outputs[name] = {"value": reading.value} | ({"unit": reading.unit} if reading.unit else {})
        else:
            scores = {label: round(score, 4) for label, score in reading.scores.items()}
            outputs[name] = {"label": reading.label, "on": list(reading.on), "scores": scores}
    return {
        "number": decision.number,
        "time": stamp(decision.wall_s),
        "outputs": outputs,
        "voted": list(decision.voted),
        "stood_in": list(decision.stood_in),
        "ages_ms": {name: round(age * 1000) for name, age in decision.ages_s.items()},
        "latency_ms": round(decision.latency_ms, 1),
    }
