"""What a run can say about itself: what it did and how fast, how much memory it holds, how its sources do, what was lost on the way."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgemm.box.serving.scheduling import Engine
from edgemm.box.serving.sink_threads import Inline, Outlet
from edgemm.box.serving.source_threads import Feeder
from edgemm.contracts.source import Source

RATE_SPAN = 50  # decisions over which their rate is told


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        ran: Input -> how often its branch ran.
        skipped: Gated input -> calls of its branch that its gate kept from running, and those that ran.
        frames: Input whose frames are kept -> how many were computed, and how many had been before.
        late: Decisions for which data had to wait for more than two periods.
        note: Where another target ran than the bundle's first: which, and why.
        lost: What was away, and what could not be delivered, in words.
        never_came: Live sources of which nothing came, and sinks that were never there, in all the time.
    """

    seconds: float
    decisions: int
    events: int
    ran: Mapping[str, int]
    late: int
    target: str
    precision: str
    in_parts: bool
    latency_p50_ms: float
    latency_p95_ms: float
    skipped: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    frames: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    note: str = ""
    lost: tuple[str, ...] = ()
    never_came: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        branches = ", ".join(f"{name} {count}" for name, count in self.ran.items())
        how = "branch by branch" if self.in_parts else "as a whole"
        return (
            f"{self.decisions} decisions and {self.events} events in {self.seconds:.1f} s "
            f"({self.target}, {self.precision}, {how}: {branches}); "
            f"latency p50 {self.latency_p50_ms:.1f} ms, p95 {self.latency_p95_ms:.1f} ms"
            + "".join(_gated(name, *counts) for name, counts in self.skipped.items())
            + "".join(f"\n{name}: {computed} frames computed, {kept} kept" for name, (computed, kept) in self.frames.items())
            + (f"\nnote: {self.note}" if self.note else "")
            + "".join(f"\nlost: {words}" for words in self.lost)
        )


def _gated(name: str, skipped: int, passed: int) -> str:
    share = skipped / max(1, skipped + passed)
    return f"\ngate of {name}: {skipped} of {skipped + passed} calls skipped ({share:.0%})"


class Health:
    """What a running box counts of itself; looks at its parts, and changes none of them.

    Args:
        feeders: Of live sources; recordings that are played fast have none.
        outlets: May grow.
    """

    def __init__(self, engine: Engine, sources: Sequence[Source], feeders: Sequence[Feeder], outlets: Sequence[Outlet | Inline]) -> None:
        self._engine, self._sources, self._feeders, self._outlets = engine, sources, feeders, outlets
        self._decided_s: deque[float] = deque(maxlen=RATE_SPAN)

    def decided(self, now: float) -> None:
        """There was a decision."""
        self._decided_s.append(now)

    def rate_hz(self) -> float:
        """Decisions a second, of the last ones; 0 until there are two."""
        times = self._decided_s
        return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0

    def latency_ms(self) -> tuple[float, float]:
        """p50 and p95 of the last decisions; 0 while there is none."""
        latencies = sorted(self._engine.latencies_ms)
        return (latencies[len(latencies) // 2], latencies[min(len(latencies) - 1, int(len(latencies) * 0.95))]) if latencies else (0.0, 0.0)

    def of_branch(self, name: str) -> dict[str, Any]:
        """How often a branch ran, and of how many frames."""
        model, ran = self._engine.model, {"ran": self._engine.ran.get(name, 0)}
        frames = model.frames.get(name)
        if frames is None:
            return ran | ({"frames_anew": model.anew[name]} if name in model.anew else {})
        return ran | {"frames_computed": frames.computed, "frames_kept": frames.kept}

    def named(self) -> dict[str, Feeder]:
        """Each source's name, told apart by a number where two have the same, as two folders may."""
        named: dict[str, Feeder] = {}
        for feeder in self._feeders:
            name, number = feeder.source.describe(), 1
            while name in named:
                name, number = f"{feeder.source.describe()} {number + 1}", number + 1
            named[name] = feeder
        return named

    def lost(self) -> tuple[str, ...]:
        """What was away or could not be delivered, in words."""
        sources = [words for name, feeder in self.named().items() for words in lost_by_source(feeder, name)]
        sources += [] if self._feeders else [note for source in self._sources for note in source.notes]
        sinks = [words for outlet in self._outlets for words in lost_by_sink(outlet)]
        why = self._engine.why_waiting if not self._engine.decided else ""
        return *([f"no decision was taken: {why}"] if why else []), *sources, *sinks

    def never_came(self) -> tuple[str, ...]:
        """Live sources of which nothing came, and sinks that were never there."""
        return (
            *(name for name, feeder in self.named().items() if never_came(feeder)),
            *(outlet.name for outlet in self._outlets if was_never_there(outlet)),
        )


def rss_mib() -> float:
    """Resident memory of this process."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return round(pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20), 1)


def lost_by_source(feeder: Feeder, name: str) -> list[str]:
    """What to say of a source at the end: how often it was away, what it did not hold."""
    error = feeder.error.rstrip(".")
    if never_came(feeder):
        return [f"{name} was never there: {error or 'it did not answer in this time'}"]
    away = (
        [f"{name} was lost {feeder.losses} time{'s' * (feeder.losses != 1)}{f', last: {error}' if error else ''}"] if feeder.losses else []
    )
    return [*away, *feeder.source.notes]


def lost_by_sink(outlet: Outlet | Inline) -> list[str]:
    """What to say of a sink at the end: events that did not arrive, or that nobody was there."""
    said, events = outlet.describe(), outlet.lost()
    why = f": {said['why'].rstrip('.')}" if said.get("why") else ""
    undelivered = f"{events} event{'s' * (events != 1)} not delivered"
    if was_never_there(outlet):
        return [f"{outlet.name} was never there{f', {undelivered}' if events else ''}{why or ': it did not answer in this time'}"]
    return [f"{outlet.name}: {undelivered}{why}"] if events else [f"{outlet.name} was away{why}"] if why else []


def never_came(feeder: Feeder) -> bool:
    """Whether nothing at all came of a live source; of one on which nobody need speak, that it was not even there."""
    return feeder.source.live and not feeder.came


def was_never_there(outlet: Outlet | Inline) -> bool:
    """Whether a sink that has somebody at its other end never reached them."""
    said = outlet.describe()
    return said.get("connects") == 0 and (bool(said.get("why")) or "connected" in said)  # a broker greets, a webhook is not asked


def source_status(feeder: Feeder, name: str, now: float) -> dict[str, Any]:
    """How a source does, as plain values without secrets."""
    drift = feeder.timeline.drift_ppm()
    return {
        "name": name,
        "inputs": list(feeder.source.inputs),
        "state": feeder.state,
        "error": feeder.error,
        "reconnects": feeder.reconnects,
        "received": feeder.received,
        "rate_hz": round(feeder.rate_hz(), 1),
        "silent_s": round(now - feeder.last_s, 1),
        "skew_s": round(feeder.skew_s(), 3),
        "drift_ppm": None if drift is None else round(drift, 1),
        "notes": list(feeder.source.notes),
    }
