"""Which runtime options are fastest on this box, by measuring the few that make sense."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgemm.box.measuring.schedule import Candidate, Progress, Timing, time_candidates
from edgemm.box.measuring.statistics import percentiles
from edgemm.contracts.deployment import Deployment
from edgemm.errors import EdgemmError

ROUNDS, CALLS = 16, 12  # about 200 calls a choice; short rounds, so that what else the box does falls on all choices alike
CLOSE = 1.15  # choices at most this many times as slow as the fastest go into the final
PROCESSES = (2, 4)  # of each choice in the final: where its memory lies makes one process 2% to 8% faster than another
PATIENCE_S = 16.0  # for starting these; fewer of them where a model takes long to open
START_S = 0.6  # a process up to where it opens the model
LIGHT = 1.05  # what is taken for its fewer threads may be this many times as slow,
PRECISE = 1.02  # for being more precise this many; what is known to compute some graphs wrongly must be so much faster
UNDISTURBED = 10  # percentile that choices are compared by: what a choice can do, which other jobs blur in the p50 of a busy box
PRECISE_FIRST = ("f32", "f16", "bf16")


@dataclass(frozen=True)
class Choice:
    """One combination of runtime options and what it showed. ``note`` says why it was not taken."""

    options: Mapping[str, Any]
    p50_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    precision_ran: str = ""
    note: str = ""


@dataclass(frozen=True)
class Tuned:
    """The options to use, and the table behind them (fastest first; what failed at the end)."""

    options: dict[str, Any]
    table: tuple[Choice, ...] = field(default_factory=tuple)

    @property
    def notes(self) -> list[str]:
        """What was tried and could not be taken, in words."""
        return [f"{_words(choice.options)}: {choice.note}" for choice in self.table if choice.note]


def tune(
    deployment: Deployment,
    feed: Mapping[str, np.ndarray],
    *,
    forbid: frozenset[str] = frozenset(),
    objection: Callable[[dict[str, Any]], str] | None = None,
    seconds: float = 1.0,
    progress: Progress | None = None,
) -> Tuned:
    """Time a target's choices against each other and keep the fastest that nothing speaks against.

    The fastest few meet again in a final of twice the length and several processes each, together with the target's unsafe variations of
    them where ``objection`` can prove those. Fewer threads are preferred where they are at most 5% slower, a more precise choice where it
    is at most 2% slower; an unsafe one must be faster by that. This is a decision, not a claim: what noise hides is small. A choice that
    does not compile or crashes is left out and noted.

    Args:
        deployment: The model on its target; its runtime options do not matter.
        feed: One batch as it ships.
        forbid: Float types that must not run.
        objection: What speaks against the options of one choice after another, best first, in words, until it is "" for nothing;
            None = speed alone decides.
        seconds: For the timed calls of each choice.

    Raises:
        EdgemmError: No choice works: the error of the safe one, or what speaks against each.
    """
    plugin = deployment.plugin()

    def timed(choices: Mapping[str, Mapping[str, Any]], *, length: int = 1, launches: int = 0) -> dict[str, Timing]:
        candidates = [Candidate(name, "bundle", deployment.running(options)) for name, options in choices.items()]
        return time_candidates(
            candidates, feed, rounds=length * ROUNDS, calls=CALLS, seconds=length * seconds, warmup_s=seconds / 2, launches=launches,
            progress=progress,
        )  # fmt: skip

    choices = {_words(options): options for options in plugin.choices(forbid=forbid)}
    timings = timed(choices)
    ranked = _ranked(choices, timings)
    if not ranked:
        raise next(timing.error for timing in timings.values() if timing.error)
    best_ms = min(_speed_ms(timings[name]) for name in ranked)
    close = {name: choices[name] for name in ranked if _speed_ms(timings[name]) <= CLOSE * best_ms}
    unsafe = (
        {_words(options): options for row in close.values() for options in plugin.unsafe_choices(row, deployment.model)}
        if objection
        else {}
    )
    if len(close) + len(unsafe) > 1:
        processes = _affordable(len(close) + len(unsafe), [timings[name] for name in close])
        timings |= timed({**close, **unsafe}, length=2, launches=processes)
        ranked = [*_ranked(close, timings), *(name for name in ranked if name not in close)]
    refused: dict[str, str] = {}
    taken = _first(ranked, choices, objection, refused)
    if taken is None:
        raise EdgemmError(
            f"{deployment.target}: no choice of runtime options can be taken.",
            why="; ".join(f"{name}: {why}" for name, why in refused.items()),
            fix="keep a branch in fp32 in the recipe, or loosen the budget.",
        )
    faster = [name for name in _ranked(unsafe, timings) if taken in close and _is_faster(timings[name], timings[taken])]
    better = _first(faster, unsafe, objection, refused)
    first = [name for name in (better, taken) if name]
    order = [*first, *(name for name in [*ranked, *choices, *unsafe] if name not in first)]
    choices |= unsafe
    return Tuned(
        dict(choices[order[0]]),
        tuple(_choice(choices[name], timings[name], refused.get(name, "")) for name in dict.fromkeys(order)),
    )


def _affordable(choices: int, timings: Sequence[Timing]) -> int:
    """How many processes each of the final's choices gets, by how long those already timed took to open."""
    opening_s = max((timing.load_ms + timing.first_ms) / 1e3 for timing in timings)
    least, most = PROCESSES
    return min(most, max(least, int(PATIENCE_S / choices / (START_S + opening_s))))


def _first(
    names: Sequence[str],
    choices: Mapping[str, Mapping[str, Any]],
    objection: Callable[[dict[str, Any]], str] | None,
    refused: dict[str, str],
) -> str | None:
    """The first choice that nothing speaks against; what spoke against those before it goes into ``refused``."""
    for name in names:
        why = objection(dict(choices[name])) if objection else ""
        if not why:
            return name
        refused[name] = why
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


def _is_faster(timing: Timing, other: Timing) -> bool:
    return PRECISE * _speed_ms(timing) <= _speed_ms(other)


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


def _choice(options: Mapping[str, Any], timing: Timing, note: str) -> Choice:
    if timing.error is not None:
        return Choice(options, note=f"left out: {timing.error.what} {timing.error.why}".strip())
    (p50,) = percentiles(timing.samples_ms, [50])
    return Choice(options, p50.value, p50.low, p50.high, timing.precision_ran, note)


def _words(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in options.items()) or "default"
