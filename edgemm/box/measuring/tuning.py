"""Which runtime options are fastest on this box, by measuring the few that make sense."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgemm.box.measuring.schedule import Candidate, Progress, Timing, time_candidates
from edgemm.box.measuring.statistics import RatioInterval, percentiles, ratio
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.timing_parts import OptionsTried
from edgemm.errors import EdgemmError

ROUNDS, CALLS = 16, 12  # about 200 calls a choice; short rounds, so that what else the box does falls on all choices alike
CLOSE = 1.15  # choices at most this many times as slow as the fastest go into the final
PROCESSES = (2, 4)  # of each choice in the final: where its memory lies makes one process 2% to 8% faster than another
LONG_S = 1.0  # what takes as long to open is large: its memory lies everywhere, and one process is like another
PATIENCE_S = 16.0  # for starting these; fewer of them where a model takes long to open
START_S = 0.6  # a process up to where it opens the model
LIGHT = 1.05  # what is taken for its fewer threads may be this many times as slow,
PRECISE = 1.02  # for being more precise this many; what is known to compute some graphs wrongly must be so much faster
UNDISTURBED = 10  # percentile that choices are compared by: what a choice can do, which other jobs blur in the p50 of a busy box
REFERENCE = "reference"
PRECISE_FIRST = ("f32", "f16", "bf16")


@dataclass(frozen=True)
class Tuned:
    """The options to use, and the table behind them (fastest first; what failed at the end).

    Attributes:
        against: Time of a call over that of the reference, where one ran beside it.
    """

    options: dict[str, Any]
    table: tuple[OptionsTried, ...] = ()
    against: RatioInterval | None = None

    @property
    def notes(self) -> list[str]:
        """What was tried and could not be taken, in words."""
        return [f"{_words(choice.options)}: {choice.note}" for choice in self.table if choice.note]


@dataclass(frozen=True)
class Raced:
    """One choice of runtime options as it was timed against the others.

    Attributes:
        tried: Its row of the table; its note says why it failed.
        speed_ms: What it can do; None where it failed.
        is_close: It was so near to the fastest that it went into the final.
        is_unsafe: It may be taken for a proved graph only.
        against: Time of a call in the final over that of the reference, where one ran beside it.
    """

    tried: OptionsTried
    speed_ms: float | None
    is_close: bool = False
    is_unsafe: bool = False
    against: RatioInterval | None = None

    @property
    def name(self) -> str:
        return _words(self.tried.options)


def tune(
    deployment: Deployment,
    feed: Mapping[str, np.ndarray],
    *,
    forbid: frozenset[str] = frozenset(),
    objection: Callable[[dict[str, Any]], str] | None = None,
    seconds: float = 1.0,
    progress: Progress | None = None,
) -> Tuned:
    """Time a target's choices against each other and keep the fastest that nothing speaks against: ``race``, then ``settle``.

    Args:
        deployment, feed, forbid, seconds: As ``race``.
        objection: As ``settle``.

    Raises:
        EdgemmError: No choice works: the error of the safe one, or what speaks against each.
    """
    raced = race(deployment, feed, forbid=forbid, with_unsafe=objection is not None, seconds=seconds, progress=progress)
    return settle(deployment.target, raced, objection)


def race(
    deployment: Deployment,
    feed: Mapping[str, np.ndarray],
    *,
    forbid: frozenset[str] = frozenset(),
    with_unsafe: bool = False,
    reference: Deployment | None = None,
    seconds: float = 1.0,
    progress: Progress | None = None,
) -> list[Raced]:
    """Time a target's choices against each other.

    The fastest few meet again in a final of twice the length and several processes each. What does not compile or crashes is noted.

    Args:
        deployment: The model on its target; its runtime options do not matter.
        feed: One batch as it ships.
        forbid: Float types that must not run.
        with_unsafe: Also time, in the final, the target's unsafe variations of what is there.
        reference: What else runs in the final, to tell how the choices there compare with it; it takes the same feed.
        seconds: For the timed calls of each choice.

    Returns:
        The choices, best first (fewer threads before others that are at most 5% faster, more precise before 2%), then those that failed,
        then the unsafe ones.

    Raises:
        EdgemmError: No choice works: the error of the safe one.
    """
    plugin = deployment.plugin()

    def timed(choices: Mapping[str, Mapping[str, Any]], *, length: int = 1, launches: int = 0) -> dict[str, Timing]:
        candidates = [Candidate(name, "bundle", deployment.running(options)) for name, options in choices.items()]
        if launches and reference:
            candidates.append(Candidate(REFERENCE, "float", reference))
        return time_candidates(
            candidates, feed, rounds=length * ROUNDS, calls=CALLS, seconds=length * seconds, warmup_s=seconds / 2, launches=launches,
            cold=False, progress=progress,
        )  # fmt: skip

    choices = {_words(options): options for options in plugin.choices(forbid=forbid)}
    timings = timed(choices)
    ranked = _ranked(choices, timings)
    if not ranked:
        raise next(timing.error for timing in timings.values() if timing.error)
    best_ms = min(_speed_ms(timings[name]) for name in ranked)
    close = {name: choices[name] for name in ranked if _speed_ms(timings[name]) <= CLOSE * best_ms}
    variations = [options for row in close.values() for options in plugin.unsafe_choices(row, deployment.model)] if with_unsafe else []
    unsafe = {_words(options): options for options in variations}
    finalists = len(close) + len(unsafe) + (reference is not None)
    if finalists > 1:
        processes = _affordable(finalists, [timings[name] for name in close])
        timings |= timed({**close, **unsafe}, length=2, launches=processes)
        ranked = [*_ranked(close, timings), *(name for name in ranked if name not in close)]
    order = dict.fromkeys([*ranked, *choices, *_ranked(unsafe, timings), *unsafe])
    everything = choices | unsafe
    return [
        _raced(everything[name], timings[name], timings.get(REFERENCE), is_close=name in close, is_unsafe=name in unsafe) for name in order
    ]


def settle(target: str, raced: Sequence[Raced], objection: Callable[[dict[str, Any]], str] | None = None) -> Tuned:
    """The fastest choice that nothing speaks against.

    An unsafe one must be 2% faster than what else would be taken. This is a decision, not a claim: what noise hides is small.

    Args:
        raced: What ``race`` told.
        objection: What speaks against the options of one choice after another, best first, in words, until it is "" for nothing;
            None = speed alone decides.

    Raises:
        EdgemmError: Something speaks against each.
    """
    refused: dict[str, str] = {}
    running = [row for row in raced if row.speed_ms is not None]
    taken = _first([row for row in running if not row.is_unsafe], objection, refused)
    if taken is None:
        raise EdgemmError(
            f"{target}: no choice of runtime options can be taken.",
            why="; ".join(f"{name}: {why}" for name, why in refused.items()),
            fix="keep a branch in fp32 in the recipe, or loosen the budget.",
        )
    faster = [row for row in running if row.is_unsafe and taken.is_close and _is_faster(row, taken)]
    first = [row for row in (_first(faster, objection, refused), taken) if row]
    table = [row.tried for row in (*first, *(row for row in raced if row not in first))]
    named = [
        replace(row, target=target, taken=number == 0, note=refused.get(_words(row.options), row.note)) for number, row in enumerate(table)
    ]
    return Tuned(dict(table[0].options), tuple(named), first[0].against)


def _affordable(choices: int, timings: Sequence[Timing]) -> int:
    """How many processes each of the final's choices gets, by how long those already timed took to open."""
    opening_s = max((timing.load_ms + timing.first_ms) / 1e3 for timing in timings)
    least, most = PROCESSES if opening_s < LONG_S else (1, PROCESSES[1])
    return min(most, max(least, int(PATIENCE_S / choices / (START_S + opening_s))))


def _first(raced: Sequence[Raced], objection: Callable[[dict[str, Any]], str] | None, refused: dict[str, str]) -> Raced | None:
    """The first choice that nothing speaks against; what spoke against those before it goes into ``refused``."""
    for row in raced:
        why = objection(dict(row.tried.options)) if objection else ""
        if not why:
            return row
        refused[row.name] = why
    return None


def _ranked(choices: Mapping[str, Mapping[str, Any]], timings: Mapping[str, Timing]) -> list[str]:
    """Names, best first: again and again the fastest of the rest, or what is nearly as fast and modest."""
    rest = sorted((name for name in choices if timings[name].error is None), key=lambda name: _speed_ms(timings[name]))
    ranked = []
    while rest:
        near = [name for name in rest if _speed_ms(timings[name]) <= LIGHT * _speed_ms(timings[rest[0]])]
        fewest = min(_threads(choices[name]) for name in near)
        light = [name for name in near if _threads(choices[name]) == fewest]
        best = min(light, key=lambda name: (not _is_near(timings[name], timings[light[0]]), _rank(choices[name]), rest.index(name)))
        ranked.append(best)
        rest.remove(best)
    return ranked


def _is_near(timing: Timing, fastest: Timing) -> bool:
    return _speed_ms(timing) <= PRECISE * _speed_ms(fastest)


def _is_faster(row: Raced, other: Raced) -> bool:
    return row.speed_ms is not None and other.speed_ms is not None and PRECISE * row.speed_ms <= other.speed_ms


def _threads(options: Mapping[str, Any]) -> int:
    return int(options.get("threads", 1 << 16))


def _rank(options: Mapping[str, Any]) -> int:
    precision = options.get("precision", "f32")
    return PRECISE_FIRST.index(precision) if precision in PRECISE_FIRST else len(PRECISE_FIRST)


def _speed_ms(timing: Timing) -> float:
    """What a choice can do, the mean over its processes."""
    processes: dict[int, list[float]] = {}
    for launch, calls in zip(timing.launches or (0,) * len(timing.samples_ms), timing.samples_ms, strict=True):
        processes.setdefault(launch, []).extend(calls)
    return float(np.exp(np.mean([np.log(np.percentile(calls, UNDISTURBED)) for calls in processes.values()])))


def _raced(options: Mapping[str, Any], timing: Timing, reference: Timing | None, *, is_close: bool, is_unsafe: bool) -> Raced:
    if timing.error is not None:
        tried = OptionsTried(options, note=f"left out: {timing.error.what} {timing.error.why}".strip())
        return Raced(tried, None, is_close, is_unsafe)
    (p50,) = percentiles(timing.samples_ms, [50])
    ran_beside = reference is not None and reference.error is None and (is_close or is_unsafe)
    against = ratio(timing.samples_ms, reference.samples_ms, launches=timing.launches) if reference and ran_beside else None
    tried = OptionsTried(options, p50.value, p50.low, p50.high, timing.precision_ran)
    return Raced(tried, _speed_ms(timing), is_close, is_unsafe, against)


def _words(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in options.items()) or "default"
