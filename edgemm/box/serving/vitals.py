"""What a running box counts of itself: its rate, how long decisions take, what its branches ran, what was lost on the way."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from edgemm.box.serving.health import lost_by_sink, lost_by_source, never_came, was_never_there
from edgemm.box.serving.scheduling import Engine
from edgemm.box.serving.sink_threads import Inline, Outlet
from edgemm.box.serving.source_threads import Feeder
from edgemm.contracts.source import Source

RATE_SPAN = 50  # decisions over which their rate is told


class Vitals:
    """Looks at the parts of a run, and changes none of them.

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
