"""One running box: sources, the loop and sinks put together, and what it knows about itself."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from edgemm import __version__
from edgemm.box.bundle.opened import Bundle
from edgemm.box.serving import model as serving
from edgemm.box.serving.decisions import Decider
from edgemm.box.serving.drift import Drift
from edgemm.box.serving.gating import Gates
from edgemm.box.serving.health import Health, Summary, rss_mib, source_status
from edgemm.box.serving.knowing import Knowing
from edgemm.box.serving.scheduling import Engine
from edgemm.box.serving.settings import THRESHOLD, Part, Settings
from edgemm.box.serving.shares import Sharing
from edgemm.box.serving.sink_threads import Inline, Outlet
from edgemm.box.serving.source_threads import Feeder, Patience, whole
from edgemm.box.serving.telling import Teller
from edgemm.box.serving.tracking import following
from edgemm.box.serving.windows import Windows
from edgemm.contracts import plugins
from edgemm.contracts.decision import Decision
from edgemm.contracts.modality import Modality, modalities
from edgemm.contracts.report import Measurement
from edgemm.contracts.sink import About, Sink
from edgemm.contracts.source import Item, Source
from edgemm.errors import EdgemmError, RunError
from edgemm.redaction import redact

STATUS_S = 5.0  # between two statuses where nothing happens
WATCH_S = 1.0  # between two looks at the sources
LOG = logging.getLogger("edgemm.run")


class Runner:
    """A bundle with its sources and sinks. ``run`` until ``stop`` is set; made once, run once.

    Args:
        fast: Recordings are played as fast as the box can, on a clock of their own; nothing is left out.

    Raises:
        RunError: A source or sink cannot be made, ``fast`` is asked of a live source, or shares of a bundle that has none.
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
        self.knowing = Knowing(bundle, settings, self.target)
        self.model = serving.open_model(bundle, self.target, settings)
        self.windows = Windows(self.card, list(settings.fed()), [source.inputs for source in self.sources])
        self.decider = Decider(self.card, settings.decisions, bundle.thresholds(self.target), self.knowing.names())
        self.engine = Engine(
            self.model, self.windows, self.decider, settings, self.card, gates=self._gates(bundle, self.model), wall=self.wall
        )
        self.engine.scenes.refit(bundle.thresholds(self.target))
        self.feeders = [
            Feeder(source, self._wants(source), self.windows.offer, patience=patience, now=now) for source in ([] if fast else self.sources)
        ]
        sharing = Sharing(bundle, self.model) if settings.shares else None
        self._teller = Teller(self.engine, self._measured, sharing)
        self.outlets: list[Outlet | Inline] = []
        self.health = Health(self.engine, self.sources, self.feeders, self.outlets)
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
            threshold=next((s.threshold for s in decisions.values() if s.threshold is not None), self._threshold()),
            control=self._control,
            zones=self.engine.scenes.zones(),
            gated=tuple(state.name for state in self.engine.gates.states),
            named=self.decider.entities(),
            settable=self.knowing.controls(),
        )

    def control(self, what: str, value: str) -> bool:
        """Set ``enabled``, ``modalities``, ``threshold``, or ``<output>/<what>`` of ``About.settable``; False where that cannot be.

        Raises:
            EdgemmError: A name or file does not fit; says why.
        """
        output = self.knowing.set(what, value, self.engine.said)
        if output:
            self._know(output)
        return bool(output) or self.engine.control(what, value)

    def _control(self, what: str, value: str) -> bool:
        """For sinks, which have nobody to tell why not."""
        try:
            return self.control(what, value)
        except EdgemmError as err:
            LOG.warning("%s was not set: %s", what, redact(f"{err.what} {err.why}".strip()))
            return False

    def _know(self, output: str) -> None:
        """Hold an output against what is known of it now, and tell the sinks."""
        self.engine.know(output, self.knowing.names()[output])
        for outlet in self.outlets:
            outlet.changed(self.about())

    def _gates(self, bundle: Bundle, model: serving.Model) -> Gates:
        """The bundle's, where it runs in parts."""
        own = bundle.gates(model.target)
        if own and not model.in_parts:
            LOG.warning("every branch runs always: the bundle has gates, and it runs as a whole")
        return Gates(own if model.in_parts else (), self.card, self.settings.gates)

    def _threshold(self) -> float:
        """What holds where the settings say nothing: of a model that has only boxes theirs."""
        frames = self.engine.scenes.frames
        own = [tracks.threshold for tracks in self.settings.tracks.values() if tracks.threshold is not None]
        return (own or [following.THRESHOLD])[0] if set(frames) == set(self.card.outputs) else THRESHOLD

    @property
    def clock_s(self) -> float:
        """How far recordings that are played fast have got."""
        return self._virtual_s

    @property
    def events(self) -> int:
        """How many were told."""
        return self._teller.count

    def add_sink(self, name: str, sink: Sink) -> None:
        self.outlets.append((Inline if self.fast else Outlet)(name, sink, self.about()))

    def run(self, stop: threading.Event, seconds: float | None = None) -> Summary:
        """Serve until ``stop`` is set, ``seconds`` are over, or every recording has ended.

        Raises:
            RunError: A recording cannot be read to its end.
        """
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

        Raises:
            RunError: Shares are told, and this bundle has none.
            DataError: A gallery is another model's.
        """
        try:
            sharing = Sharing(bundle, model) if self.settings.shares else None
            knowing = Knowing(bundle, self.settings, model.target, before=self.knowing)
        except EdgemmError:
            model.close()
            raise
        old = self.engine.swap(model, self._gates(bundle, model))
        self.knowing = knowing
        for output in knowing.names():
            self._know(output)
        self._teller.sharing = sharing
        self.decider.refit(bundle.thresholds(model.target))
        self.engine.scenes.refit(bundle.thresholds(model.target))
        self.bundle, self.model, self.target, self.note = bundle, model, model.target, note
        old.close()

    def summary(self) -> Summary:
        p50, p95 = self.health.latency_ms()
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
            skipped={state.name: (state.skipped, state.passed) for state in self.engine.gates.states},
            frames={name: (frames.computed, frames.kept) for name, frames in self.engine.model.frames.items()},
            note=self.note,
            lost=self.health.lost(),
            never_came=self.health.never_came(),
        )

    def status(self) -> dict[str, Any]:
        """How it goes, as plain values without secrets."""
        now = self._now()
        p50, p95 = self.health.latency_ms()
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
            "decide_hz": round(self.health.rate_hz(), 2),
            "latency_ms": {"p50": round(p50, 1), "p95": round(p95, 1)},
            "late": self.engine.late,
            "voted": list(self.engine.voted),
            "skipped": list(self.engine.skipped),
            "gates": self.engine.gates.describe(),
            "expected": self._expected((*self.engine.voted, *self.engine.skipped)),
            "refused": {"count": self.engine.refused, "last": self.engine.refusal},
            "threshold": self.decider.threshold,
            "modalities": sorted(self.engine.allowed),
            "inputs": {name: {**counts, **self.health.of_branch(name)} for name, counts in self.windows.counts().items()},
            "level_dbfs": self.windows.level_dbfs(),
            "sources": [source_status(feeder, name, now) for name, feeder in self.health.named().items()],
            "sinks": [outlet.describe() for outlet in self.outlets],
            "drift": self.drift.state() if self.drift else {"recalibrate": False, "why": ""},
            "known": self.knowing.describe(),
            "rss_mib": rss_mib(),
            **{name: describe() for name, describe in self.describe_more.items()},
        }

    def _expected(self, voted: tuple[str, ...]) -> dict[str, dict[str, Any]]:
        """Output -> what was measured with just these inputs there; {} where nobody measured that."""
        measurements = self._measured(voted) if voted else {}
        return {output: {"name": m.name, "value": round(m.value, 4)} for output, m in measurements.items()}

    def _measured(self, voted: tuple[str, ...]) -> dict[str, Measurement]:
        """``Bundle.expected`` of outputs that are still asked what they were measured by."""
        return {output: one for output, one in self.bundle.expected(self.target, voted).items() if not self.knowing.is_other(output)}

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
            failure = next((feeder.failure for feeder in self.feeders if feeder.failure), None)
            if failure is not None:
                raise failure
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
        self.knowing.look(self._know)
        self._deliver(self.engine.lapse(self._now()))
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
        for time_s, items in itertools.groupby(self._recorded(), key=lambda item: item.time_s):  # what is there at once is seen at once
            if stop.is_set() or (seconds is not None and time_s > seconds):
                return
            self._step_until(time_s)
            self._virtual_s = max(self._virtual_s, time_s)
            for item in items:
                self.windows.offer(item, self._virtual_s)
            self._tell(self.engine.step(self._virtual_s))
        self._step_until(self._virtual_s + 2 / self.settings.decide_hz)  # what came last is decided on too

    def _step_until(self, time_s: float) -> None:
        """Take the decisions that fall due before, on what is there already."""
        while self._virtual_s < (due_s := self.engine.due_s) < time_s and self.engine.is_due(due_s):
            self._virtual_s = due_s
            self._tell(self.engine.step(due_s))

    def _recorded(self) -> Iterator[Item]:
        return heapq.merge(*(whole(source, self._wants(source)) for source in self.sources), key=lambda item: item.time_s)

    def _tell(self, decision: Decision | None) -> None:
        if decision is None:
            return
        for source in self.sources:
            source.unwatched = frozenset(decision.skipped)
        self.health.decided(self._now())
        for do in self.on_decision:
            do(decision)
        self._deliver(decision)

    def _deliver(self, decision: Decision | None) -> None:
        """Hand a decision to the sinks, with what happened in it."""
        if decision is None:
            return
        events = self._teller.events(decision)
        for outlet in self.outlets:
            for event in events:
                outlet.event(event)
            for news in decision.tracked:
                outlet.tracked(news, decision.voted)
            outlet.decision(decision)

    def _end(self) -> None:
        for feeder in self.feeders:
            feeder.stop()
        for feeder in self.feeders:
            feeder.join(1.0)
        self._deliver(self.engine.lapse(self._now(), is_over=True))
        for outlet in self.outlets:
            outlet.stop(3.0)
        self._precision = self.engine.model.precision()
        self.engine.model.close()


def _made(protocol: Any, part: Part) -> Any:
    return plugins.find(protocol, part.kind)(**part.options)
