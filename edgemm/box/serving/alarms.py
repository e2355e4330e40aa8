"""Thresholds by a rate of false alarms: what a bundle says while nothing happens, and from which score on that would be too often."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgemm.box.bundle.opened import Bundle
from edgemm.box.serving.decisions import Latch
from edgemm.box.serving.runner import Runner
from edgemm.box.serving.settings import DecisionSettings, Settings
from edgemm.contracts import plugins
from edgemm.contracts.decision import Decision
from edgemm.contracts.source import Source
from edgemm.errors import RunError

DAY_S = 86400.0
TAIL = 0.025  # on each side of a 95% interval
LEADS = 0.5  # a class that leads for so much of a quiet recording is what quiet looks like
ON = 0.5  # a threshold that is passed for so much of it is none
DIGITS = 6
SLACK = 1.05  # a container's word of its length is rarely further off
SHOWN_IN_HOURS_S = 600.0


@dataclass(frozen=True)
class Watched:
    """What a bundle said of quiet recordings.

    Attributes:
        seconds: How long they are, together.
        times_s: (n,), when each decision was taken; from one recording to the next it grows by more than any cool-down.
        scores: Output -> class -> (n,).
    """

    seconds: float
    times_s: np.ndarray
    scores: Mapping[str, Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Fitted:
    """The threshold of one class.

    Attributes:
        alarms: How many there were at it in the quiet recordings.
        low, high: 95% interval of alarms a day, by Poisson's distribution.
        again: The 95% range of alarms in another recording as long.
        recall: Share of the labelled rows of the class that score so much; None where there are none.
        quiet: The class is what quiet looks like: it is never an event, and has no threshold.
    """

    output: str
    label: str
    threshold: float
    alarms: int
    per_day: float
    low: float
    high: float
    again: tuple[int, int]
    recall: float | None = None
    quiet: bool = False


def require(recordings: Sequence[Settings], per_day: float) -> None:
    """Refuse what can be known before hours are played.

    Raises:
        RunError: The rate cannot be asked for, a source is live, or the files say that they are too short for the rate.
    """
    if not per_day > 0 or not math.isfinite(per_day):
        raise RunError(f"{per_day:g} alarms a day cannot be asked for.", fix="write a number above 0, such as 1.")
    sources: list[Source] = [plugins.find(Source, part.kind)(**part.options) for one in recordings for part in one.sources]
    if live := next((source for source in sources if source.live), None):
        raise RunError(
            f"--quiet '{live.describe()}' is live.",
            why="thresholds are fitted on recordings, which are played as fast as the box can.",
            fix="record it first (ffmpeg -i ADDRESS -c copy night.mp4), and give the file.",
        )
    lengths = [source.told_length_s() for source in sources]
    if all(lengths) and per_day * sum(lengths) * SLACK < DAY_S:
        raise _too_short(sum(lengths), per_day)


def _too_short(seconds: float, per_day: float) -> RunError:
    days = seconds / DAY_S
    length = f"{seconds / 3600:.2f} h" if seconds >= SHOWN_IN_HOURS_S else f"{seconds:.0f} s"
    return RunError(
        f"the quiet recordings are too short for {per_day:g} alarms a day: {length}.",
        why="at that rate not one alarm is to be expected in them, so they cannot tell it from a lower or a much higher one.",
        fix=f"record at least {24 / per_day:.1f} h, or ask for {math.ceil(1 / days * 10) / 10:g} alarms a day.",
    )


def watch(bundle: Bundle, settings: Settings, recordings: Sequence[Settings]) -> Watched:
    """Play recordings as ``edgemm run --fast`` does, one after the other, and keep every score.

    Args:
        settings: Whose cool-downs count.
        recordings: For each recording the settings with it as its source.

    Raises:
        RunError: A recording cannot be read, or no decision was taken.
    """
    longest = max([DecisionSettings().cool_down_s, *(one.cool_down_s for one in settings.decisions.values())])
    times: list[float] = []
    scores: dict[str, dict[str, list[float]]] = {}
    begin = 0.0
    for recording in recordings:
        runner = Runner(bundle, recording, fast=True)
        runner.on_decision.append(_Keeper(runner, begin, times, scores).keep)
        summary = runner.run(threading.Event())
        if not summary.decisions:
            raise RunError(
                "no decision was taken on a quiet recording.", why="; ".join(summary.lost) or "it is empty.", fix="give another."
            )
        begin += summary.seconds + longest + 1.0
    seconds = begin - len(recordings) * (longest + 1.0)
    rows = {name: {label: np.array([*row, *[0.0] * (len(times) - len(row))]) for label, row in of.items()} for name, of in scores.items()}
    return Watched(seconds, np.array(times), rows)


@dataclass
class _Keeper:
    """Takes down the decisions of one recording that begins at ``begin_s``."""

    runner: Runner
    begin_s: float
    times: list[float]
    scores: dict[str, dict[str, list[float]]]

    def keep(self, decision: Decision) -> None:
        for name, reading in decision.readings.items():
            for label, score in (reading.scores or {}).items():
                row = self.scores.setdefault(name, {}).setdefault(label, [])
                row += [0.0] * (len(self.times) - len(row))  # an output that was not told meanwhile
                row.append(score)
        self.times.append(self.begin_s + self.runner.clock_s)


def fitted(watched: Watched, settings: Settings, per_day: float) -> list[Fitted]:
    """The lowest threshold of each class that raises no more alarms than asked for.

    Args:
        per_day: Alarms of one class a day.

    Raises:
        RunError: The recordings are too short for that rate.
    """
    days = watched.seconds / DAY_S
    if per_day * days < 1:
        raise _too_short(watched.seconds, per_day)
    allowed = math.floor(per_day * days + 1e-9)
    every = []
    for output, classes in watched.scores.items():
        given = settings.decisions.get(output, DecisionSettings())
        leads = np.argmax(np.stack(list(classes.values())), axis=0)
        for number, (label, scores) in enumerate(classes.items()):
            is_quiet = label in given.quiet or (len(classes) > 1 and float((leads == number).mean()) > LEADS)
            own: dict[str, Any] = {key: value for key, value in given.classes.get(label, {}).items() if key not in ("threshold", "release")}
            count = EventCount(watched.times_s, scores, replace(given, release=None, **own))
            threshold = 1.0 if is_quiet else _lowest(count, scores, allowed)
            alarms = 0 if is_quiet else count(threshold)
            low, high = interval(alarms)
            every.append(Fitted(output, label, threshold, alarms, alarms / days, low / days, high / days, again(alarms), quiet=is_quiet))
    return every


class EventCount:
    """How many events a threshold makes, with debounce, hysteresis and cool-down as ``edgemm run`` has them."""

    def __init__(self, times_s: np.ndarray, scores: np.ndarray, settings: DecisionSettings) -> None:
        self._times, self._scores, self._settings = times_s.tolist(), scores.tolist(), settings

    def __call__(self, threshold: float) -> int:
        latch = Latch("", "", replace(self._settings, threshold=threshold), False)
        changes = (latch.update(score, at_s, None) for at_s, score in zip(self._times, self._scores, strict=True))
        return sum(change is not None and change.is_event for change in changes)


def _lowest(count: EventCount, scores: np.ndarray, allowed: int) -> float:
    """From the greatest score downwards, since far below all scores one alarm that never ends would seem the best."""
    levels = np.unique(scores[np.isfinite(scores)])[::-1]
    last = int(np.searchsorted(-levels, -np.quantile(scores, 1 - ON)))
    good, step = -1, 1  # index of a level that makes few enough; -1: above all
    while good + step < min(last, len(levels)) and count(float(levels[good + step])) <= allowed:
        good, step = good + step, 2 * step
    bad = min(good + step, last, len(levels))
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if count(float(levels[middle])) <= allowed else (good, middle)
    if good < 0:
        return _between(float(levels[0]), min(1.0, float(levels[0]) + 1e-3) if levels[0] < 1 else float(levels[0]) + 1e-6)
    return _between(float(levels[good + 1]), float(levels[good])) if good + 1 < len(levels) else float(levels[good])


def _between(low: float, high: float) -> float:
    """A short number above ``low`` and not above ``high``."""
    middle = (low + high) / 2
    short = round(middle, DIGITS)
    return short if low < short <= high else middle


def interval(count: int) -> tuple[float, float]:
    """The 95% interval of what was to be expected where ``count`` came. Source: Garwood (1936), Biometrika 28."""
    low = 0.0 if count == 0 else _root(lambda mean: 1 - _at_most(count - 1, mean) - TAIL, float(count))
    high = _root(lambda mean: TAIL - _at_most(count, mean), 4.0 * count + 10)
    return low, high


def again(count: int) -> tuple[int, int]:
    """The 95% range of what comes the next time where ``count`` came. Source: the negative binomial under Jeffreys' prior."""
    shape, below, ends = count + 0.5, 0.0, list[int]()
    number = 0
    while len(ends) < 2:
        log = math.lgamma(number + shape) - math.lgamma(number + 1) - math.lgamma(shape) - (shape + number) * math.log(2)
        below += math.exp(log)
        ends += [number] * sum(below >= tail for tail in (TAIL, 1 - TAIL)[len(ends) :])
        number += 1
    return ends[0], ends[1]


def _at_most(count: int, mean: float) -> float:
    """Poisson's chance of ``count`` or fewer."""
    if mean <= 0:
        return 1.0
    return sum(math.exp(number * math.log(mean) - mean - math.lgamma(number + 1)) for number in range(count + 1))


def _root(rising: Any, top: float) -> float:
    """Where a rising function passes 0, between 0 and ``top``."""
    low, high = 0.0, top
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2


def written_into(plain: dict[str, Any], every: Sequence[Fitted]) -> dict[str, Any]:
    """The content of ``run.yaml`` with these thresholds; what else stands there stays."""
    decisions = {name: dict(entry or {}) for name, entry in (plain.get("decisions") or {}).items()}
    for one in every:
        entry = decisions.setdefault(one.output, {})
        if one.quiet:
            entry["quiet"] = [*(entry.get("quiet") or []), *([one.label] if one.label not in (entry.get("quiet") or []) else [])]
            continue
        classes = entry["classes"] = {label: dict(own) for label, own in (entry.get("classes") or {}).items()}
        own = classes.setdefault(one.label, {})
        own.pop("release", None)  # it belonged to another threshold
        own["threshold"] = one.threshold
    return {**plain, "decisions": decisions}
