"""Which timings were disturbed, and whether the box was busy before they began, in words and as plain values for the report."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

from edgemm.box.measuring.candidate import Timing
from edgemm.contracts.timing_parts import TimedTurn
from edgemm.store.machine import usable_cores

DISTURBED = 0.25  # of a candidate's rounds: from there on its whole row is flagged
HOPELESS = 0.75  # of all rounds: the machine was too busy to measure
TOLD = 2  # reasons named for one candidate
BUSY = 0.5  # load per core, before we start, from which a report warns: then milliseconds are not to be trusted, only ratios


def load() -> float:
    """Jobs that ran or waited for a processor during the last minute; 0 where the system does not tell. Ask before starting any work."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def busy(before: float) -> list[str]:
    """A note for the report where ``before``, the load when we began, was high; else none."""
    cores = usable_cores()
    if before < BUSY * cores:
        return []
    return [f"Other jobs used the processor (load {before:.1f} on {cores} cores): trust ratios inside this report, not milliseconds."]


def is_disturbed(timing: Timing) -> bool:
    """Whether too many of its rounds were disturbed each time they were tried."""
    kept = [turn for turn in timing.turns if turn.kept]
    return bool(kept) and len(timing.disturbed) > DISTURBED * len(kept)


def notes(timings: Mapping[str, Timing]) -> list[str]:
    """A note for each disturbed candidate; a single one for all where the machine was too busy to measure at all."""
    kept = [turn for timing in timings.values() for turn in timing.turns if turn.kept]
    spoiled = [turn for turn in kept if turn.reasons]
    if kept and len(spoiled) > HOPELESS * len(kept):
        return [
            f"This machine was too busy to measure: {len(spoiled)} of {len(kept)} rounds were disturbed however often they were repeated "
            f"({_commonest(spoiled)}). Trust no figure of this run; measure again when nothing else runs."
        ]
    return [
        f"{name} was disturbed in {len(timing.disturbed)} of {sum(turn.kept for turn in timing.turns)} rounds "
        f"({_commonest(timing.disturbed)}); take its figures with care."
        for name, timing in timings.items()
        if is_disturbed(timing)
    ]


def timeline(timings: Mapping[str, Timing]) -> list[TimedTurn]:
    """Every turn of every candidate in the order it was taken."""
    return sorted((turn for timing in timings.values() for turn in timing.turns), key=lambda turn: turn.at_s)


def summary(timings: Mapping[str, Timing]) -> dict[str, dict[str, Any]]:
    """Candidate -> how many of its rounds were disturbed, how many turns were done again, why, and whether it is flagged."""
    return {
        name: {
            "rounds": sum(turn.kept for turn in timing.turns),
            "disturbed": len(timing.disturbed),
            "repeated": sum(not turn.kept for turn in timing.turns),
            "reasons": dict(_reasons([turn for turn in timing.turns if turn.reasons])),
            "flagged": is_disturbed(timing),
        }
        for name, timing in timings.items()
        if timing.error is None
    }


def _reasons(turns: list[TimedTurn]) -> Counter[str]:
    """Reasons without their figures, with how often each was given."""
    return Counter(_kind(reason) for turn in turns for reason in turn.reasons)


def _commonest(turns: list[TimedTurn]) -> str:
    """The commonest reasons, each in its worst form."""
    worst: dict[str, str] = {}
    for turn in turns:
        for reason in turn.reasons:
            key = _kind(reason)
            worst[key] = max(worst.get(key, ""), reason, key=_figure)
    return "; ".join(f"at worst: {worst[key]}" if _figure(worst[key]) else worst[key] for key, _ in _reasons(turns).most_common(TOLD))


def _kind(reason: str) -> str:
    return " ".join(word for word in reason.split() if not word.isdigit() and word != "%")


def _figure(reason: str) -> int:
    return max((int(word) for word in reason.split() if word.isdigit()), default=0)
