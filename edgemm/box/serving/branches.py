"""What each branch of a running model gave last: when its turn is, whether it is young enough to count, and running it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgemm.box.serving.model import Arrays, Model
from edgemm.box.serving.settings import Settings
from edgemm.box.serving.windows import Windows
from edgemm.contracts.card import Card
from edgemm.contracts.decision import Sample
from edgemm.contracts.modality import modalities
from edgemm.errors import DataError


@dataclass(frozen=True)
class Kept:
    """A branch's newest result."""

    arrays: Arrays
    sample: Sample


class Branches:
    """The branches of a model, each at its own rate: its turn comes ``1 / rate_hz`` after its last.

    Attributes:
        allowed: Inputs that may vote; the others count as missing.
        ran: Input -> how often its branch ran.
        refused: Samples that could not be read, and why the last one.
    """

    def __init__(self, model: Model, windows: Windows, settings: Settings, card: Card) -> None:
        self.model, self.windows = model, windows
        self._settings, self._card = settings, card
        self._stale_s = {name: settings.stale_s(name, card) for name in card.inputs}
        self._period_s = 1 / settings.decide_hz
        self.allowed = frozenset(card.inputs)
        self.ran: dict[str, int] = dict.fromkeys(model.inputs, 0)
        self.refused, self.refusal = 0, ""
        self._kept: dict[str, Kept] = {}
        self._turn_s: dict[str, float] = dict.fromkeys(model.inputs, float("-inf"))
        self._left_s: dict[str, float | None] = {}  # when the sample ends that a branch's turn passed over
        self._fix_values()

    def _fix_values(self) -> None:
        """Run the branches of inputs that the settings give a value to, once."""
        own = modalities(self._card)
        for name in self.model.inputs:
            value = self._settings.input(name).value
            if value is not None:
                array = own[name].decode(value, Path())[None]
                self._kept[name] = Kept(self.model.embed(name, array), Sample(array, float("inf"), float("-inf")))
                self.ran[name] += 1

    def _start_anew(self, model: Model) -> None:
        """Forget what another model's branches gave."""
        self.model = model
        self._kept.clear()
        self._left_s.clear()
        self._turn_s = dict.fromkeys(model.inputs, float("-inf"))
        self._fix_values()

    def _new(self, now: float) -> list[str]:
        """Inputs whose turn it is and that have something new."""
        turned = (name for name in self.model.inputs if name in self.allowed and now >= self._turn_s[name] - self._period_s / 2)
        return [name for name in turned if self._is_newer(name) and self.windows.sample_s(name) != self._left_s.get(name)]

    def _is_newer(self, name: str) -> bool:
        """Whether there is something newer of an input than what is kept."""
        newest, before = self.windows.sample_s(name), self._kept.get(name)
        return newest is not None and (before is None or newest > before.sample.time_s)

    def _is_there(self, name: str, now: float) -> bool:
        """Whether an input may vote and something young enough has come of it."""
        newest = self.windows.sample_s(name)
        return name in self.allowed and newest is not None and now - newest <= self._stale_s[name]

    def _present(self, now: float, without: Collection[str] = ()) -> tuple[str, ...]:
        """Inputs whose kept result counts, in the model's order."""
        there = (name for name in self.model.inputs if name in self.allowed and name not in without)
        return tuple(name for name in there if name in self._kept and self._counts(name, now))

    def _counts(self, name: str, now: float) -> bool:
        """Whether what is kept of an input is young enough, and from after its last hole."""
        time_s = self._kept[name].sample.time_s
        return now - time_s <= self._stale_s[name] and time_s >= self.windows.begun_s(name)

    def _answer(self, present: tuple[str, ...]) -> dict[str, np.ndarray]:
        return self.model.answer({name: self._kept[name].arrays for name in present})

    def _refresh(self, name: str, now: float, horizon_s: float) -> bool:
        """Run a branch on the newest; whether there was something."""
        try:
            sample = self.windows.take(name, horizon_s)
        except DataError as err:
            self.refused, self.refusal = self.refused + 1, f"{name}: {err.what}"
            return False
        before = self._kept.get(name)
        if sample is None or (before is not None and sample.time_s <= before.sample.time_s):
            return False
        self._kept[name] = Kept(self.model.embed(name, sample.array, sample.position), sample)
        self.ran[name] += 1
        self._take_turn(name, now)
        return True

    def _take_turn(self, name: str, now: float) -> None:
        period_s = 1 / self._settings.rate_hz(name)
        self._turn_s[name] = max(self._turn_s[name] + period_s, now + period_s / 2)

    def _leave(self, name: str, now: float) -> None:
        """Let a branch's turn pass; its next comes with the next sample."""
        self._take_turn(name, now)
        self._left_s[name] = self.windows.sample_s(name)
