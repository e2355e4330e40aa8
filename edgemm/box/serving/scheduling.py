"""The loop's heart: which branch runs when, what is too old to count, and one decision a tick. Has no clock and no thread of its own."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgemm.box.serving.decisions import Decider
from edgemm.box.serving.extents import Extents
from edgemm.box.serving.model import Arrays, Model
from edgemm.box.serving.places import followers
from edgemm.box.serving.settings import Settings
from edgemm.box.serving.tracking.scenes import Scenes
from edgemm.box.serving.windows import Windows
from edgemm.contracts.card import Card
from edgemm.contracts.decision import Decision, Observation, Sample
from edgemm.contracts.modality import modalities
from edgemm.errors import DataError

ALL = "all"
LATENCIES = 1000  # of the last decisions, for percentiles
PATIENCE_S = 3.0  # from the first data to a first decision without all inputs
CALM_S = 0.5  # ticks are looked at at least so often, so that an input's going stale is noticed


@dataclass(frozen=True)
class _Kept:
    """A branch's newest result."""

    arrays: Arrays
    sample: Sample


class Engine:
    """Runs branches at their rates and the rest once a tick.

    A tick falls due ``1 / decide_hz`` after the one before, and happens as soon as an input whose turn it is has something new. Each
    input's turn comes ``1 / rate_hz`` after its last.

    Attributes:
        enabled: Off: nothing runs.
        allowed: Inputs that may vote; the others count as missing.
        ran: Input -> how often its branch ran.
        late: Decisions on data that had waited for more than two periods: the box cannot keep up.
        voted: Inputs that the last decision rests on.
        refused: Samples that could not be read, and why the last one.
    """

    def __init__(
        self, model: Model, windows: Windows, decider: Decider, settings: Settings, card: Card, *, wall: Callable[[], float] = time.time
    ) -> None:
        self.model, self.windows, self.decider = model, windows, decider
        self.scenes, self._extents = Scenes(card, followers(card, settings)), Extents(card)
        self._settings, self._card, self._wall = settings, card, wall
        self._stale_s = {name: settings.stale_s(name, card) for name in card.inputs}
        self._period_s = 1 / settings.decide_hz
        self._lock = threading.RLock()
        self.enabled, self.allowed = True, frozenset(card.inputs)
        self.ran: dict[str, int] = dict.fromkeys(model.inputs, 0)
        self.late, self.refused, self.decided, self.why_waiting = 0, 0, 0, "no data yet"
        self.refusal = ""
        self.latencies_ms: deque[float] = deque(maxlen=LATENCIES)
        self._kept: dict[str, _Kept] = {}
        self._turn_s: dict[str, float] = dict.fromkeys(model.inputs, float("-inf"))
        self._tick_s = float("-inf")
        self._first_s = float("inf")  # when the first data came
        self.voted: tuple[str, ...] = ()
        self._last: Decision | None = None
        self._fix_values()

    def _fix_values(self) -> None:
        """Run the branches of inputs that the settings give a value to, once."""
        own = modalities(self._card)
        for name in self.model.inputs:
            value = self._settings.input(name).value
            if value is not None:
                array = own[name].decode(value, Path())[None]
                self._kept[name] = _Kept(self.model.embed(name, array), Sample(array, float("inf"), float("-inf")))
                self.ran[name] += 1

    def swap(self, model: Model) -> Model:
        """Go on with another model of the same inputs and outputs; gives the old one back, still open."""
        with self._lock:
            old, self.model = self.model, model
            self._kept.clear()
            self._turn_s = dict.fromkeys(model.inputs, float("-inf"))
            self._fix_values()
            return old

    def wait_s(self, now: float) -> float:
        """How long the loop may sleep unless something arrives."""
        return min(CALM_S, max(0.0, self._tick_s - now))

    def is_due(self, now: float) -> bool:
        """Whether ``step`` would do something: it is time, and there is something new, or something has become too old."""
        return self.enabled and now >= self._tick_s and (bool(self._new(now)) or self._present(now) != self.voted)

    def step(self, now: float, *, clock: Callable[[], float] | None = None) -> Decision | None:
        """Run what is due; None where that makes no decision.

        Args:
            clock: Tells when the decision was there; by default it took no time (recordings played faster than life).
        """
        with self._lock:
            if not self.is_due(now):
                return None
            self._advance(now)
            horizon_s = self.windows.horizon_s(self._stale_s, now)
            self._first_s = min(self._first_s, now)
            fresh = [name for name in self._new(now) if self._refresh(name, now, horizon_s)]
            present = self._present(now)
            if not fresh and present == self.voted:
                return None
            missing = self.model.lacking(present) or self._awaited(present, now)
            if missing:
                self.voted, self.why_waiting = present, f"nothing from {', '.join(missing)}"
                return None
            outputs = self.model.answer({name: self._kept[name].arrays for name in present})
            done = clock() if clock else now
            return self._decide(outputs, present, fresh, now, done)

    def lapse(self, now: float, *, is_over: bool = False) -> Decision | None:
        """End the tracks in pictures that do not come any more, or are not looked at, where no decision does.

        Args:
            is_over: No picture will come.

        Returns:
            The last decision without these tracks; None where none had to end.
        """
        with self._lock:
            goes_on = self.enabled and not self.why_waiting and not is_over
            told = self.scenes.end(self._present(now) if goes_on else ())
            if self._last is None or not told.readings:
                return None
            self._last = replace(
                self._last,
                wall_s=self._wall(),
                readings={**self._last.readings, **told.readings},
                changes=(),
                incidents=told.incidents,
                tracked=told.news,
                samples={},
                embedded={},
            )
            return self._last

    def _awaited(self, present: tuple[str, ...], now: float) -> list[str]:
        """Inputs worth waiting for before the very first decision: a second of sound takes a second to come."""
        if self.decided or now - self._first_s > PATIENCE_S:
            return []
        return [name for name in self.model.inputs if name in self.allowed and name in self.windows.inputs() and name not in present]

    def alone(self) -> dict[str, dict[str, Observation]]:
        """What each input would say by itself, everything else replaced by stand-ins: input -> output -> what it says."""
        return {subset[0]: said for subset, said in self.of_subsets([(name,) for name in self.voted]).items()}

    def of_subsets(self, subsets: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], dict[str, Observation]]:
        """What just these of the inputs that voted would say: subset -> output -> what it says; without those that cannot answer."""
        with self._lock:
            said = {}
            sizes = self._extents.of({name: self._kept[name].sample for name in self.voted if name in self._kept})
            for subset in subsets:
                if self.model.in_parts and self._kept.keys() >= {*subset} and not self.model.lacking(subset):
                    outputs = self.model.answer({name: self._kept[name].arrays for name in subset})
                    followed = {output: self.scenes.seen(output, outputs, sizes) for output in self.scenes.frames}
                    said[subset] = self.decider.seen(outputs, sizes) | followed
            return said

    def control(self, what: str, value: str) -> bool:
        """Set ``enabled`` (ON or OFF), ``modalities`` (all, or an input's name) or ``threshold``; False where that cannot be."""
        with self._lock:
            if what == "enabled" and value in ("ON", "OFF"):
                self.enabled = value == "ON"
            elif what == "modalities" and (value == ALL or value in self._card.inputs):
                self.allowed = frozenset(self._card.inputs) if value == ALL else frozenset({value})
            elif what == "threshold" and _is_score(value):
                self.decider.threshold = float(value)
            else:
                return False
            return True

    def _new(self, now: float) -> list[str]:
        """Inputs whose turn it is and that have something new."""
        new_inputs = []
        for name in self.model.inputs:
            newest = self.windows.newest_s(name)
            before = self._kept.get(name)
            is_new = newest is not None and (before is None or newest > before.sample.time_s)
            if name in self.allowed and is_new and now >= self._turn_s[name] - self._period_s / 2:
                new_inputs.append(name)
        return new_inputs

    def _present(self, now: float) -> tuple[str, ...]:
        return tuple(name for name in self.model.inputs if name in self.allowed and name in self._kept and self._counts(name, now))

    def _counts(self, name: str, now: float) -> bool:
        """Whether what is kept of an input is young enough, and from after its last hole."""
        time_s = self._kept[name].sample.time_s
        return now - time_s <= self._stale_s[name] and time_s >= self.windows.begun_s(name)

    def _advance(self, now: float) -> None:
        """Set the next tick; a whole period behind, it starts counting anew."""
        if now - self._tick_s > self._period_s:
            self._tick_s = now
        self._tick_s += self._period_s

    def _refresh(self, name: str, now: float, horizon_s: float) -> bool:
        try:
            sample = self.windows.take(name, horizon_s)
        except DataError as err:
            self.refused, self.refusal = self.refused + 1, f"{name}: {err.what}"
            return False
        before = self._kept.get(name)
        if sample is None or (before is not None and sample.time_s <= before.sample.time_s):
            return False
        self._kept[name] = _Kept(self.model.embed(name, sample.array, sample.position), sample)
        self.ran[name] += 1
        period_s = 1 / self._settings.rate_hz(name)
        self._turn_s[name] = max(self._turn_s[name] + period_s, now + period_s / 2)
        return True

    def _decide(self, outputs: dict[str, np.ndarray], present: tuple[str, ...], fresh: list[str], now: float, done: float) -> Decision:
        self.decided += 1
        self.voted, self.why_waiting = present, ""
        kept = {name: self._kept[name].sample for name in present}
        moving = {name: sample for name, sample in kept.items() if sample.time_s != float("inf")}
        at_s = max((sample.time_s for sample in moving.values()), default=now)
        sizes = self._extents.of(kept)
        readings, changes = self.decider.update(outputs, at_s, sizes)
        wall_s = self._wall()
        told = self.scenes.update(outputs, kept, sizes, begun_s=self.windows.begun_s, wall_s=wall_s, threshold=self.decider.threshold)
        both = {**readings, **told.readings}
        arrived = max((kept[name].arrived_s for name in fresh if name in moving), default=now)
        latency_ms = max(0.0, done - arrived) * 1000
        if fresh:
            self.latencies_ms.append(latency_ms)
            self.late += latency_ms > 2000 * self._period_s
        self._last = Decision(
            self.decided,
            at_s,
            wall_s,
            {name: both[name] for name in self._card.outputs if name in both},
            tuple(changes),
            present,
            tuple(name for name in self.model.inputs if name not in present),
            {name: max(0.0, now - sample.time_s) for name, sample in moving.items()},
            latency_ms,
            {name: moving[name].frame for name in self._first(moving) if moving[name].frame is not None},
            {name: kept[name] for name in fresh if name in kept},
            {name: self._kept[name].arrays for name in fresh if name in kept},
            told.incidents,
            told.news,
        )
        return self._last

    def _first(self, inputs: Iterable[str]) -> list[str]:
        """The inputs, those in whose picture there are boxes before those with points and masks, and these before the others."""
        boxes, marks = set(self.scenes.frames.values()), self.decider.frames
        return sorted(inputs, key=lambda name: 0 if name in boxes else 1 if name in marks else 2)


def _is_score(value: str) -> bool:
    try:
        return -1 <= float(value) <= 1
    except ValueError:
        return False
