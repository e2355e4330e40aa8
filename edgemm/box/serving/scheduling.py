"""The loop's heart: which branch runs when, what is too old to count, and one decision a tick. Has no clock and no thread of its own."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgemm.box.serving.branches import Branches
from edgemm.box.serving.decisions import Decider
from edgemm.box.serving.extents import Extents
from edgemm.box.serving.gating import OUT, Gates, GateState
from edgemm.box.serving.model import Model
from edgemm.box.serving.names import Names
from edgemm.box.serving.places import followers
from edgemm.box.serving.settings import Settings
from edgemm.box.serving.tracking.scenes import Scenes
from edgemm.box.serving.windows import Windows
from edgemm.contracts.card import Card
from edgemm.contracts.decision import Decision, Observation, Sample

ALL = "all"
LATENCIES = 1000  # of the last decisions, for percentiles
PATIENCE_S = 3.0  # from the first data to a first decision without all inputs
CALM_S = 0.5  # ticks are looked at at least so often, so that an input's going stale is noticed


@dataclass(frozen=True)
class _Judged:
    """An answer, and the inputs that it rests on."""

    present: tuple[str, ...]
    outputs: dict[str, np.ndarray]


class Engine(Branches):
    """Runs branches at their rates and the rest once a tick.

    A tick falls due ``1 / decide_hz`` after the one before, and happens as soon as an input whose turn it is has something new.

    Attributes:
        enabled: Off: nothing runs.
        late: Decisions on data that had waited for more than two periods: the box cannot keep up.
        voted: Inputs that the last decision rests on.
        skipped: Inputs whose branch a gate left out of it.
        gates: What says so.
        due_s: When the next tick falls.
    """

    def __init__(
        self,
        model: Model,
        windows: Windows,
        decider: Decider,
        settings: Settings,
        card: Card,
        *,
        gates: Gates | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(model, windows, settings, card)
        self.decider, self.gates = decider, gates or Gates((), card)
        self.scenes, self._extents = Scenes(card, followers(card, settings)), Extents(card)
        self._wall, self._lock = wall, threading.RLock()
        self.enabled = True
        self.late, self.decided, self.why_waiting = 0, 0, "no data yet"
        self.latencies_ms: deque[float] = deque(maxlen=LATENCIES)
        self.due_s = float("-inf")
        self._first_s = float("inf")  # when the first data came
        self.voted: tuple[str, ...] = ()
        self.skipped: tuple[str, ...] = ()
        self._last: Decision | None = None
        self._said: Mapping[str, np.ndarray] = {}

    def know(self, output: str, names: Names) -> None:
        """Hold an output against these names from now on."""
        with self._lock:
            self.decider.know(output, names)

    def said(self, output: str) -> np.ndarray | None:
        """What the last decision's answer is, (1, ...); None where there is none, or nothing that it rests on is there any more."""
        with self._lock:
            return self._said.get(output) if self.enabled and not self.why_waiting else None

    def swap(self, model: Model, gates: Gates | None = None) -> Model:
        """Go on with another model of the same inputs and outputs, and its gates; gives the old one back, still open."""
        with self._lock:
            old, self.gates, self.skipped = self.model, gates or Gates((), self._card), ()
            self._start_anew(model)
            return old

    def wait_s(self, now: float) -> float:
        """How long the loop may sleep unless something arrives."""
        return min(CALM_S, max(0.0, self.due_s - now))

    def is_due(self, now: float) -> bool:
        """Whether ``step`` would do something: it is time, and there is something new, or something has become too old."""
        return self.enabled and now >= self.due_s and (bool(self._new(now)) or self._present(now, self.skipped) != self.voted)

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
            new = self._new(now)
            fresh = [name for name in new if name not in self.gates.inputs and self._refresh(name, now, horizon_s)]
            judged = self._through_gates(new, fresh, now, horizon_s)
            present = self._present(now, self.skipped)
            if not fresh and judged is None and present == self.voted:
                return None
            missing = self.model.lacking(present) or self._awaited(present, now)
            if missing:
                self.voted, self.why_waiting = present, f"nothing from {', '.join(missing)}"
                return None
            outputs = judged.outputs if judged and judged.present == present else self._answer(present)
            if not self.skipped and present == tuple(self.model.inputs):
                self.gates.see_whole(outputs)
            done = clock() if clock else now
            return self._decide(outputs, present, fresh, now, done)

    def _through_gates(self, new: list[str], fresh: list[str], now: float, horizon_s: float) -> _Judged | None:
        """Ask each gate in turn, and run its branch where it stays open, which is added to ``fresh``.

        Returns:
            The newest answer; None where nobody was asked, or a branch ran after it.
        """
        if not self.gates.states or not (fresh or new):
            return None
        self.skipped, judged = (), None
        for state in self.gates.states:
            base = self._present(now, state.covers)
            state.why = state.objection(base, now)
            if not state.why or state.why == OUT:
                judged = _Judged(base, self._answer(base))
                state.would_skip = judged.outputs if self.gates.is_sure(state, judged.outputs) else None
                if state.would_skip is not None and not state.why:
                    self._skip(state, judged, new, now, horizon_s)
                    return judged
            is_wanted = state.name in new or (state.owes and self._is_newer(state.name))
            if is_wanted and self._refresh(state.name, now, horizon_s):
                fresh.append(state.name)
                state.ran(now)
                judged = None
        return judged

    def _skip(self, state: GateState, judged: _Judged, new: list[str], now: float, horizon_s: float) -> None:
        """Leave out what a gate covers; a share of these calls runs all the same, and is compared."""
        self.skipped = tuple(name for name in self.model.inputs if name in state.covers and self._is_there(name, now))
        due = [name for name in self.skipped if name in new]
        for name in due:
            self._leave(name, now)
        for one in self.gates.states:
            if one.name in due:
                one.left_out()
        if state.name not in due or not state.covers <= {*self.skipped}:
            return
        pictures = (self.windows.frame(name, horizon_s) for name in self.skipped)
        if not self.gates.wants_shadow(state, sum(getattr(picture, "cost", 0) for picture in pictures)):  # a source may hand out arrays
            return
        for name in self.skipped:
            if self._is_newer(name):
                self._refresh(name, now, horizon_s)
        whole = self._present(now)
        if state.covers <= {*whole}:
            self.gates.compare(state, judged.outputs, self._answer(whole))

    def lapse(self, now: float, *, is_over: bool = False) -> Decision | None:
        """End the tracks in pictures that do not come any more, or are not looked at, where no decision does.

        Args:
            is_over: No picture will come.

        Returns:
            The last decision without these tracks; None where none had to end.
        """
        with self._lock:
            goes_on = self.enabled and not self.why_waiting and not is_over
            told = self.scenes.end(self._present(now, self.skipped) if goes_on else ())
            if self._last is None or not told.readings:
                return None
            self._last = replace(
                self._last,
                wall_s=self._wall(),
                readings={**self._last.readings, **told.readings},
                changes=(),
                incidents=told.incidents,
                tracked=told.news,
                gates=(),
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

    def _advance(self, now: float) -> None:
        """Set the next tick; a whole period behind, it starts counting anew."""
        if now - self.due_s > self._period_s:
            self.due_s = now
        self.due_s += self._period_s

    def _decide(self, outputs: dict[str, np.ndarray], present: tuple[str, ...], fresh: list[str], now: float, done: float) -> Decision:
        self.decided += 1
        self.voted, self.why_waiting, self._said = present, "", outputs
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
            tuple(name for name in self.model.inputs if name not in present and name not in self.skipped),
            {name: max(0.0, now - sample.time_s) for name, sample in moving.items()},
            latency_ms,
            self._frames(moving, now),
            {name: kept[name] for name in fresh if name in kept},
            {name: self._kept[name].arrays for name in fresh if name in kept},
            told.incidents,
            told.news,
            self.skipped,
            tuple(self.gates.news()),
        )
        return self._last

    def _frames(self, moving: Mapping[str, Sample], now: float) -> dict[str, Any]:
        """The pictures of a moment, also of those inputs that a gate left out: looking at them costs no branch."""
        frames = {name: sample.frame for name, sample in moving.items()}
        frames |= {name: self.windows.frame(name, now) for name in self.skipped}
        return {name: frames[name] for name in self._first(frames) if frames[name] is not None}

    def _first(self, inputs: Iterable[str]) -> list[str]:
        """The inputs, those in whose picture there are boxes before those with points and masks, and these before the others."""
        boxes, marks = set(self.scenes.frames.values()), self.decider.frames
        return sorted(inputs, key=lambda name: 0 if name in boxes else 1 if name in marks else 2)


def _is_score(value: str) -> bool:
    try:
        return -1 <= float(value) <= 1
    except ValueError:
        return False
