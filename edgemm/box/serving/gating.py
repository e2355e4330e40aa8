"""The gates of a run: whether a branch may be left out now, and what came of it. Has no clock; the engine asks and tells."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from edgemm.box.serving.settings import GateSettings
from edgemm.box.serving.shadowing import Watch
from edgemm.contracts.card import Card
from edgemm.contracts.decision import GateNews
from edgemm.contracts.gate import Gate
from edgemm.data.sureness import Sureness

Outputs = Mapping[str, np.ndarray]
COLD = "it has just started"
FLOOR = "it has not run for so long"
OUT = "shadow runs disagree more often than it allows"
PATIENT = 20  # skipped calls that a shadow run waits for a picture that is whole by itself; four seconds, as long as key frames are apart


class GateState:
    """One gate while it runs.

    Attributes:
        gate: As the bundle has it, with what the settings say instead.
        covers: The inputs that are not run where it shuts: its own, and those of gates that come after.
        passed, skipped: Calls of its branch that ran, and that it kept from running.
        owes: Its branch was left out since it last ran: it may run out of turn.
        would_skip: The answer that would have stood, where it is open all the same; compared with the whole one.
    """

    def __init__(self, gate: Gate, covers: Collection[str], settings: GateSettings) -> None:
        self.gate, self.covers = gate, frozenset(covers)
        self.every_s = settings.every_s if settings.every_s is not None else gate.every_s
        self.shadow = settings.shadow if settings.shadow is not None else gate.shadow
        self.watch = Watch(gate.limit)
        self.passed = self.skipped = 0
        self.owes = False
        self.why = COLD
        self.would_skip: Outputs | None = None
        self._drawn = self._waited = self._cost = 0
        self._ran_s: float | None = None

    @property
    def name(self) -> str:
        """The input that it is about."""
        return self.gate.run

    def objection(self, present: Collection[str], now: float) -> str:
        """Why it has to stay open; "" where the answer may decide."""
        missing = [name for name in self.gate.after if name not in present]
        if missing:
            return f"nothing from {', '.join(missing)}"
        if self._ran_s is None:
            return COLD
        if self.every_s is not None and now - self._ran_s >= self.every_s:
            return FLOOR
        return OUT if self.watch.is_open else ""

    def ran(self, now: float) -> None:
        """Its branch ran, and votes."""
        self._ran_s, self.owes, self.passed = now, False, self.passed + 1

    def left_out(self) -> None:
        """A call of its branch, whose turn it was, is skipped."""
        self.owes, self.skipped = True, self.skipped + 1

    def is_time(self, drawn: bool, cost: int) -> bool:
        """Whether a call that was drawn for a shadow run shall run now, or wait until looking costs less.

        Pictures between two key frames take all since the last to be seen. So a shadow run waits for the next, but not where the watch
        looks closer, and not for long. It is drawn before, and when key frames come the camera decides; as many run.
        """
        self._drawn += drawn
        is_cheap, self._cost = cost <= max(1, self._cost - 1), cost
        if not self._drawn:
            return False
        self._waited += 1
        if not is_cheap and self._waited < PATIENT and self.watch.share(self.shadow) == self.shadow:
            return False
        self._drawn, self._waited = self._drawn - 1, 0
        return True

    def describe(self) -> dict[str, Any]:
        """How it does, as plain values."""
        shadow = self.watch.shown()
        calls = self.passed + self.skipped
        return {
            "input": self.name,
            "after": list(self.gate.after),
            "criterion": self.gate.criterion,
            "threshold": self.gate.threshold,
            "loss_points": self.gate.loss_points,
            "state": "open" if self.why else "judging",
            "why": self.why,
            "passed": self.passed,
            "skipped": self.skipped,
            "skipped_share": round(self.skipped / calls, 4) if calls else 0.0,
            "skipped_on_val": round(self.gate.skipped, 4),
            "shadow": {
                "runs": shadow.runs,
                "disagreed": shadow.disagreed,
                "share": round(shadow.share, 4),
                "low": round(shadow.low, 4),
                "high": round(shadow.high, 4),
                "limit": round(shadow.limit, 4),
            },
        }


class Gates:
    """All gates of a run, cheapest first.

    Args:
        draw: A number from 0 to 1: which skipped calls run all the same.

    Attributes:
        states: One a gate.
    """

    def __init__(
        self,
        gates: Sequence[Gate],
        card: Card,
        settings: GateSettings | None = None,
        *,
        draw: Callable[[], float] = random.random,
    ) -> None:
        settings = settings or GateSettings()
        order = [gate.run for gate in gates] if settings.use else []
        self.states = [GateState(gate, order[number:], settings) for number, gate in enumerate(gates) if settings.use]
        self._sureness, self._draw = Sureness(card), draw
        self._news: list[GateNews] = []

    @property
    def inputs(self) -> frozenset[str]:
        """Inputs that have a gate."""
        return frozenset(state.name for state in self.states)

    def is_sure(self, state: GateState, outputs: Outputs) -> bool:
        """Whether an answer without a branch may stand."""
        return bool(self._sureness.of(state.gate.criterion, outputs)[0] >= state.gate.threshold)

    def wants_shadow(self, state: GateState, cost: int = 0) -> bool:
        """Whether a call that is skipped shall run all the same.

        Args:
            cost: Pictures that must be decoded for it.
        """
        return state.is_time(self._draw() < state.watch.share(state.shadow), cost)

    def compare(self, state: GateState, without: Outputs, whole: Outputs) -> None:
        """Hold the answer of a skipped call against the one with all inputs."""
        apart = bool(self._sureness.disagree(without, whole)[0])
        if state.watch.see(apart):
            self._news.append(self._told(state))

    def see_whole(self, whole: Outputs) -> None:
        """Take in an answer of all inputs: a gate that is open though it would have skipped sees whether it was right to."""
        for state in self.states:
            if state.why == OUT and state.would_skip is not None:
                self.compare(state, state.would_skip, whole)
                state.would_skip = None

    def news(self) -> list[GateNews]:
        """What is to be told; told once."""
        told, self._news = self._news, []
        return told

    def describe(self) -> list[dict[str, Any]]:
        """How they do, as plain values."""
        return [state.describe() for state in self.states]

    def _told(self, state: GateState) -> GateNews:
        shown = state.watch.shown()
        if not state.watch.is_open:
            return GateNews(state.name, "gate_shut", 0.0, "its answers agree again with those of all inputs")
        why = (
            f"{shown.share:.1%} [{shown.low:.1%}, {shown.high:.1%}] of the last skipped calls decide otherwise with '{state.name}', "
            f"{shown.limit:.2%} is what the bundle allows"
        )
        return GateNews(state.name, "gate_opened", shown.share, why)
