"""From scores to decisions: thresholds, debounce, hysteresis and cool-down for each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from edgemm.box.serving.names import APART, UNKNOWN, Names
from edgemm.box.serving.settings import PER_CLASS, THRESHOLD, DecisionSettings
from edgemm.contracts import task as tasks
from edgemm.contracts.card import Card
from edgemm.contracts.decision import Change, Marks, Observation, Reading
from edgemm.contracts.task import Entity, Sizes

HYSTERESIS = 0.1  # from on to off where nobody says, at most half of the threshold: noise of a score near it is a few hundredths
CHANGE = 0.01  # of a number's own value: smaller moves are not told again


class Decider:
    """Holds what is on, for every output. ``update`` once a decision.

    Attributes:
        threshold: Replaces every class's own where somebody set it while running; None = as in the settings.
    """

    def __init__(
        self,
        card: Card,
        settings: Mapping[str, DecisionSettings],
        fitted: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
        names: Mapping[str, Names] = MappingProxyType({}),
    ) -> None:
        """
        Args:
            fitted: Output -> label -> the threshold that the bundle has for it (``Bundle.thresholds``).
            names: Output -> what it is held against in the place of what the card says.
        """
        self._names = dict(names)
        self._tasks = {name: task for name, task in tasks.tasks(card).items() if not task.has_boxes}  # ``tracking`` follows those
        self._frames = {name: getattr(task, "frame", None) for name, task in self._tasks.items()}
        self._fitted = fitted
        self._given = {name: settings.get(name, DecisionSettings()) for name in card.outputs}
        self._classes: dict[tuple[str, str], Latch] = {}
        self._leads: dict[str, _Lead] = {}
        self._told: dict[str, float] = {}
        self.threshold: float | None = None

    @property
    def frames(self) -> frozenset[str]:
        """The inputs in whose pictures there are points and masks."""
        return frozenset(frame for frame in self._frames.values() if frame is not None)

    def seen(self, outputs: Mapping[str, np.ndarray], sizes: Sizes = MappingProxyType({})) -> dict[str, Observation]:
        """What an answer says of the outputs that it has, before any threshold; points and masks in the camera's picture.

        Args:
            sizes: Of the pictures that voted (``Extents.of``).
        """
        own = {name: task for name, task in self._tasks.items() if name not in self._names}
        read = {name: task.read(outputs) for name, task in own.items() if set(task.reads) <= outputs.keys()}
        read |= {name: names.read(outputs) for name, names in self._names.items() if names.reads in outputs}
        return {name: self._tasks[name].placed(one, sizes) for name, one in read.items() if one is not None}

    def update(
        self, outputs: Mapping[str, np.ndarray], at_s: float, sizes: Sizes = MappingProxyType({})
    ) -> tuple[dict[str, Reading], list[Change]]:
        """Take in what the model answered at ``at_s`` (monotonic); ``sizes`` as ``seen`` wants them."""
        readings: dict[str, Reading] = {}
        changes: list[Change] = []
        for name, seen in self.seen(outputs, sizes).items():
            if seen.value is not None:
                readings[name] = self._number(name, seen.value, seen.unit)
            elif seen.scores:
                scores = seen.scores
                classes = {label: self._class(name, label) for label in scores}
                top, is_like = max(scores, key=scores.__getitem__), self.is_like(name)
                counted = {label: score if label == top or not is_like else APART for label, score in scores.items()}
                moved = [classes[label].update(score, at_s, self.threshold) for label, score in counted.items()]
                changes += [change for change in moved if change]
                on = tuple(label for label, one in classes.items() if one.is_on)
                lead = self._leads.setdefault(name, _Lead()).update(top, self._given[name].debounce)
                lead = UNKNOWN if is_like and lead not in on else lead
                readings[name] = Reading(lead, scores, on, marks=self._marks(name, seen, sizes))
        return readings, changes

    def is_like(self, output: str) -> bool:
        """Whether its scores say which of known things it is most like."""
        return output in self._names and self._names[output].is_like

    def entities(self) -> dict[str, Sequence[Entity]]:
        """Output -> what a home automation shows of it, where it is held against names."""
        return {output: names.entities() for output, names in self._names.items()}

    def know(self, output: str, names: Names) -> None:
        """Hold an output against these names from now on; what is on of those that stay is on still."""
        self._names[output] = names
        for key in [key for key in self._classes if key[0] == output and key[1] not in names.labels]:
            del self._classes[key]
        self._leads.pop(output, None)

    def _marks(self, name: str, seen: Observation, sizes: Sizes) -> Marks | None:
        """Points and mask of an output that says places in a picture, where that voted."""
        frame = self._frames[name]
        if frame is None or frame not in sizes:
            return None
        height, width = sizes[frame]
        poses = tuple(pose for pose in seen.poses if pose.score >= self._class(name, pose.label).high(self.threshold))
        return Marks(frame, (width, height), poses, seen.mask)

    def _class(self, output: str, label: str) -> Latch:
        if (output, label) not in self._classes:
            self._classes[output, label] = Latch(output, label, self._settings(output, label), label in self._given[output].quiet)
        return self._classes[output, label]

    def _settings(self, output: str, label: str) -> DecisionSettings:
        settings = self._given[output]
        if settings.threshold is None:
            own_threshold = self._names[output].threshold if output in self._names else self._fitted.get(output, {}).get(label)
            settings = replace(settings, threshold=THRESHOLD if own_threshold is None else own_threshold)
        own: dict[str, Any] = {key: value for key, value in settings.classes.get(label, {}).items() if key in PER_CLASS}
        return replace(settings, **own)

    def refit(self, fitted: Mapping[str, Mapping[str, float]]) -> None:
        """Take the thresholds of another bundle; what is on stays on."""
        self._fitted = fitted
        for (output, label), one in self._classes.items():
            one.settings = self._settings(output, label)

    def _number(self, name: str, value: float, unit: str | None) -> Reading:
        last, least_change = self._told.get(name), self._given[name].change
        moved = last is None or abs(value - last) >= (least_change if least_change is not None else CHANGE * max(abs(last), 1e-9))
        if moved:
            self._told[name] = value
        return Reading(value=value, unit=unit, moved=moved)


class Latch:
    """One class of one output: on or off."""

    def __init__(self, output: str, label: str, settings: DecisionSettings, is_quiet: bool) -> None:
        self._output, self._label, self.settings, self._is_quiet = output, label, settings, is_quiet
        self.is_on = False
        self._agreeing = 0
        self._event_s: float | None = None

    def high(self, threshold: float | None) -> float:
        """The score from which it counts; ``threshold`` goes before its own."""
        own = THRESHOLD if self.settings.threshold is None else self.settings.threshold
        return own if threshold is None else threshold

    def update(self, score: float, at_s: float, threshold: float | None) -> Change | None:
        settings = self.settings
        high = self.high(threshold)
        is_own = settings.release is not None and threshold is None
        low = min(settings.release or 0.0, high) if is_own else high - min(HYSTERESIS, abs(high) / 2)
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
