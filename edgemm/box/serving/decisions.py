"""From scores to decisions: thresholds, debounce, hysteresis and cool-down for each class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from edgemm.box.serving.settings import PER_CLASS, DecisionSettings
from edgemm.contracts import task as tasks
from edgemm.contracts.card import Card
from edgemm.contracts.decision import Change, Reading

HYSTERESIS = 0.1  # between going on and going off where nobody says: noise of a score near the threshold is a few hundredths
CHANGE = 0.01  # of a number's own value: smaller moves are not told again


class Decider:
    """Holds what is on, for every output. ``update`` once a decision.

    Attributes:
        threshold: Replaces every class's own where somebody set it while running; None = as in the settings.
    """

    def __init__(self, card: Card, settings: Mapping[str, DecisionSettings]) -> None:
        self._tasks = tasks.tasks(card)
        self._given = {name: settings.get(name, DecisionSettings()) for name in card.outputs}
        self._classes: dict[tuple[str, str], _Class] = {}
        self._leads: dict[str, _Lead] = {}
        self._told: dict[str, float] = {}
        self.threshold: float | None = None

    def update(self, outputs: Mapping[str, np.ndarray], at_s: float) -> tuple[dict[str, Reading], list[Change]]:
        """Take in what the model answered at ``at_s`` (monotonic)."""
        readings: dict[str, Reading] = {}
        changes: list[Change] = []
        for name, task in self._tasks.items():
            seen = task.read(outputs) if all(read in outputs for read in task.reads) else None
            if seen is None:
                continue
            if seen.value is not None:
                readings[name] = self._number(name, seen.value, seen.unit)
            elif seen.scores:
                scores = seen.scores
                classes = {label: self._class(name, label) for label in scores}
                moved = [classes[label].update(score, at_s, self.threshold) for label, score in scores.items()]
                changes += [change for change in moved if change]
                on = tuple(label for label, one in classes.items() if one.is_on)
                top = max(scores, key=scores.__getitem__)
                lead = self._leads.setdefault(name, _Lead()).update(top, self._given[name].debounce)
                readings[name] = Reading(lead, scores, on)
        return readings, changes

    def _class(self, output: str, label: str) -> _Class:
        if (output, label) not in self._classes:
            settings = self._given[output]
            own: dict[str, Any] = {key: value for key, value in settings.classes.get(label, {}).items() if key in PER_CLASS}
            self._classes[output, label] = _Class(output, label, replace(settings, **own), label in settings.quiet)
        return self._classes[output, label]

    def _number(self, name: str, value: float, unit: str | None) -> Reading:
        last, least_change = self._told.get(name), self._given[name].change
        moved = last is None or abs(value - last) >= (least_change if least_change is not None else CHANGE * max(abs(last), 1e-9))
        if moved:
            self._told[name] = value
        return Reading(value=value, unit=unit, moved=moved)


class _Class:
    """One class of one output: on or off."""

    def __init__(self, output: str, label: str, settings: DecisionSettings, is_quiet: bool) -> None:
        self._output, self._label, self._given, self._is_quiet = output, label, settings, is_quiet
        self.is_on = False
        self._agreeing = 0
        self._event_s: float | None = None

    def update(self, score: float, at_s: float, threshold: float | None) -> Change | None:
        settings = self._given
        high = settings.threshold if threshold is None else threshold
        low = settings.release if settings.release is not None and threshold is None else high - HYSTERESIS
        wants = score >= high if not self.is_on else score < low
        self._agreeing = self._agreeing + 1 if wants else 0
        if self._agreeing < settings.debounce:
            return None
        self.is_on, self._agreeing = not self.is_on, 0
        cooled = self._event_s is None or at_s - self._event_s >= settings.cool_down_s
        is_event = self.is_on and not self._is_quiet and cooled
        if is_event:
            self._event_s = at_s
        return Change(self._output, self._label, self.is_on, score, is_event)


class _Lead:
    """The class with the highest score, once it has been that for a few decisions in a row."""

    def __init__(self) -> None:
        self.label: str | None = None
        self._next, self._count = "", 0

    def update(self, top: str, debounce: int) -> str:
        self._count = self._count + 1 if top == self._next else 1
        self._next = top
        if self.label is None or self._count >= debounce:
            self.label = top
        return self.label
