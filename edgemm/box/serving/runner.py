"""One running box: sources, the loop and sinks put together, and what it knows about itself."""

from __future__ import annotations

import heapq
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from edgemm import __version__
from edgemm.box.bundle.opened import Bundle
from edgemm.box.serving import model as serving
from edgemm.box.serving.decisions import Decider
from edgemm.box.serving.drift import Drift
from edgemm.box.serving.health import Summary, rss_mib, source_status
from edgemm.box.serving.scheduling import Engine
from edgemm.box.serving.settings import DecisionSettings, Part, Settings
from edgemm.box.serving.sink_threads import Inline, Outlet
from edgemm.box.serving.source_threads import Feeder, Patience
from edgemm.box.serving.windows import Windows
from edgemm.contracts import plugins
from edgemm.contracts.decision import Change, Decision
from edgemm.contracts.modality import Modality, modalities
from edgemm.contracts.sink import About, Event, Sink
from edgemm.contracts.source import Item, Source
from edgemm.errors import RunError

STATUS_S = 5.0  # between two statuses where nothing happens
WATCH_S = 1.0  # between two looks at the sources
RATE_SPAN = 50  # decisions over which their rate is told
PICTURE_WIDTH = 640  # of pictures that go out with an event
LOG = logging.getLogger("edgemm.run")


class Runner:
    """A bundle with its sources and sinks. ``run`` until ``stop`` is set; made once, run once.

    Args:
        fast: Recordings are played as fast as the box can, on a clock of their own; nothing is left out.

    Raises:
        RunError: A source or sink cannot be made, or ``fast`` is asked of a live source.
    """

    def __init__(
        self,
        bundle: Bundle,
        settings: Settings,
        *,
        fast: bool = False,
        patience: Patience | None = None,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.bundle, self.settings, self.fast, self._now = bundle, settings, fast, now
        self._began = now()
        begin_wall = wall()
        self.wall: Callable[[], float] = (lambda: begin_wall + self._virtual_s) if fast else wall
        self._virtual_s = 0.0
        self.card = bundle.card
        choice = serving.choose_target(bundle, settings.target)
        self.target, self.note = choice.target, choice.note
        if choice.note:
            LOG.warning("%s", choice.note)
        self.sources: list[Source] = [_made(Source, part) for part in settings.sources]
        if fast and (live := next((source for source in self.sources if source.live), None)):
            raise RunError(f"'{live.describe()}' cannot be played fast.", why="it is live.", fix="leave out --fast.")
        self.model = serving.open_model(bundle, self.target, settings.inputs, whole=settings.whole)
        self.windows = Windows(self.card, list(settings.fed()), [source.inputs for source in self.sources])
        self.decider = Decider(self.card, settings.decisions)
        self.engine = Engine(self.model, self.windows, self.decider, settings, self.card, wall=self.wall)
        self.feeders = [
            Feeder(source, self._wants(source), self.windows.offer, patience=patience, now=now) for source in ([] if fast else self.sources)
        ]
        self._run_id, self.events = uuid.uuid4().hex[:12], 0
        self._rates: deque[float] = deque(maxlen=RATE_SPAN)
        self.outlets: list[Outlet | Inline] = []
        for part in settings.sinks:
            self.add_sink(part.kind, _made(Sink, part))
        self.on_decision: list[Callable[[Decision], None]] = []
        self.on_tick: list[Callable[[], None]] = []
        self.describe_more: dict[str, Callable[[], Any]] = {}
        self.drift = Drift(bundle, self.model, self.card, settings.drift, now=now) if settings.drift else None
        if self.drift:
            self.on_decision.append(self.drift.see)
        self._states: tuple[str, ...] = ()
        self._precision = ""

    def about(self) -> About:
        decisions = self.settings.decisions
        return About(
            name=self.settings.name,
            model=self.bundle.folder.name if self.bundle.folder.parent.name != "bundles" else "bundle",
            version=__version__,
            inputs=tuple(self.model.inputs),
            outputs=self.card.outputs,
            quiet={name: frozenset(decisions[name].quiet) if name in decisions else frozenset() for name in self.card.outputs},
            threshold=next((s.threshold for s in decisions.values()), DecisionSettings().threshold),
            control=self.engine.control,
        )

    def add_sink(self, name: str, sink: Sink) -> None:
        self.outlets.append((Inline if self.fast else Outlet)(name, sink, self.about()))

    def run(self, stop: threading.Event, seconds: float | None = None) -> Summary:
        """Serve until ``stop`` is set, ``seconds`` are over, or every recording has ended."""
        for outlet in self.outlets:
            outlet.start()
        try:
            if self.fast:
                self._play(stop, seconds)
            else:
                self._serve(stop, seconds)
        finally:
            self._end()
        return self.summary()

    def take(self, bundle: Bundle, model: serving.Model, note: str = "") -> None:
        """Serve another bundle of the same inputs and outputs from now on; the one before is closed.

        Args:
            note: ``Choice.note`` of the target it runs on.
        """
        old = self.engine.swap(model)
        self.bundle, self.model, self.target, self.note = bundle, model, model.target, note
        old.close()

    def summary(self) -> Summary:
        p50, p95 = self._latency()
        return Summary(
            seconds=self._virtual_s if self.fast else self._now() - self._began,
            decisions=self.engine.decided,
            events=self.events,
            ran=dict(self.engine.ran),
            late=self.engine.late,
            target=self.target,
            precision=self._precision,
            in_parts=self.engine.model.in_parts,
            latency_p50_ms=p50,
            latency_p95_ms=p95,
            note=self.note,
        )

    def status(self) -> dict[str, Any]:
        """How it goes, as plain values without secrets."""
        now = self._now()
        p50, p95 = self._latency()
        rate = (len(self._rates) - 1) / (self._rates[-1] - self._rates[0]) if len(self._rates) > 1 else 0.0
        waiting = self.engine.why_waiting
        return {
            "name": self.settings.name,
            "state": "off" if not self.engine.enabled else "waiting" if waiting else "running",
            "why": waiting,
            "wall_s": self.wall(),
            "uptime_s": round(now - self._began, 1),
            "target": self.target,
            "note": self.note,
            "in_parts": self.engine.model.in_parts,
            "decisions": self.engine.decided,
            "events": self.events,
            "decide_hz": round(rate, 2),
            "latency_ms": {"p50": round(p50, 1), "p95": round(p95, 1)},
            "late": self.engine.late,
            "voted": list(self.engine.voted),
            "expected": self._expected(self.engine.voted),
            "refused": {"count": self.engine.refused, "last": self.engine.refusal},
            "threshold": self.decider.threshold,
            "modalities": sorted(self.engine.allowed),
            "inputs": {name: {**counts, "ran": self.engine.ran.get(name, 0)} for name, counts in self.windows.counts().items()},
            "level_dbfs": self.windows.level_dbfs(),
            "sources": [source_status(feeder, now) for feeder in self.feeders],
            "sinks": [outlet.describe() for outlet in self.outlets],
            "drift": self.drift.state() if self.drift else {"recalibrate": False, "why": ""},
            "rss_mib": rss_mib(),
            **{name: describe() for name, describe in self.describe_more.items()},
        }

    def _expected(self, voted: tuple[str, ...]) -> dict[str, dict[str, Any]]:
        """Output -> what was measured with just these inputs there; {} where nobody measured that."""
        measurements = self.bundle.expected(self.target, voted) if voted else {}
        return {output: {"name": m.name, "value": round(m.value, 4)} for output, m in measurements.items()}

    def _wants(self, source: Source) -> dict[str, Modality]:
        own = modalities(self.card)
        return {name: own[name] for name in source.inputs}

    def _serve(self, stop: threading.Event, seconds: float | None) -> None:
        for feeder in self.feeders:
            feeder.start()
        end = None if seconds is None else self._began + seconds
        watched = last_status_s = self._now()
        while not stop.is_set() and (end is None or self._now() < end):
            now = self._now()
            if self.engine.is_due(now):
                self._tell(self.engine.step(now, clock=self._now))
            elif self.engine.wait_s(now) > 0:
                stop.wait(self.engine.wait_s(now))
            else:
                with self.windows.arrived:
                    self.windows.arrived.wait(0.5)
            if self._now() - watched >= WATCH_S:
                watched = self._now()
                last_status_s = self._look(last_status_s)
                if self.feeders and all(feeder.state == "ended" for feeder in self.feeders):
                    return

    def _look(self, last_status_s: float) -> float:
        """Watch the sources, call the pulse, tell the status where it is time or a source went up or down; when it was told last."""
        for feeder in self.feeders:
            feeder.watch()
        for do in self.on_tick:
            do()
        states = tuple(feeder.state for feeder in self.feeders)
        now = self._now()
        if now - last_status_s < STATUS_S and states == self._states:
            return last_status_s
        self._states = states
        status = self.status()
        for outlet in self.outlets:
            outlet.status(status)
        return now

    def _play(self, stop: threading.Event, seconds: float | None) -> None:
        for item in self._recorded():
            if stop.is_set() or (seconds is not None and item.time_s > seconds):
                return
            self._virtual_s = max(self._virtual_s, item.time_s)
            self.windows.offer(item, self._virtual_s)
            self._tell(self.engine.step(self._virtual_s))

    def _recorded(self) -> Iterator[Item]:
        return heapq.merge(*(source.items(self._wants(source)) for source in self.sources), key=lambda item: item.time_s)

    def _tell(self, decision: Decision | None) -> None:
        if decision is None:
            return
        self._rates.append(self._now())
        events = [self._event(decision, change) for change in decision.changes if change.is_event]
        self.events += len(events)
        for do in self.on_decision:
            do(decision)
        for outlet in self.outlets:
            for event in events:
                outlet.event(event)
            outlet.decision(decision)

    def _event(self, decision: Decision, change: Change) -> Event:
        expected = self.bundle.expected(self.target, decision.voted).get(change.output)
        alone = {name: by_output.get(change.output, {}).get(change.label) for name, by_output in self.engine.alone().items()}
        frame = decision.frame
        return Event(
            id=f"{self._run_id}-{self.events + 1}-{change.label}",
            output=change.output,
            label=change.label,
            score=change.score,
            wall_s=decision.wall_s,
            voted=decision.voted,
            stood_in=decision.stood_in,
            latency_ms=decision.latency_ms,
            expected=expected.value if expected else None,
            alone={name: score for name, score in alone.items() if score is not None},
            jpeg=(lambda: frame.jpeg(PICTURE_WIDTH)) if frame is not None else None,
        )

    def _latency(self) -> tuple[float, float]:
        latencies = sorted(self.engine.latencies_ms)
        return (latencies[len(latencies) // 2], latencies[min(len(latencies) - 1, int(len(latencies) * 0.95))]) if latencies else (0.0, 0.0)

    def _end(self) -> None:
        for feeder in self.feeders:
            feeder.stop()
        for feeder in self.feeders:
            feeder.join(1.0)
        for outlet in self.outlets:
            outlet.stop(3.0)
        self._precision = self.engine.model.precision()
        self.engine.model.close()


def _made(protocol: Any, part: Part) -> Any:
    return plugins.find(protocol, part.kind)(**part.options)
