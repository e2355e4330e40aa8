"""The learning rate over time."""

from __future__ import annotations

import math

from edgemm.contracts.training import Choice

WARM_UP = 0.05  # of all steps, at most MAX_WARM_UP: enough for AdamW's second moments
MAX_WARM_UP = 500
DROPS = (0.6, 0.85)  # of all steps: where schedule "step" drops
FIRST = 1 / 25  # of the highest rate: where one-cycle begins (Smith and Topin, 2018)


def rate_share(schedule: Choice, step: int, steps: int) -> float:
    """The share of the highest learning rate at ``step`` of ``steps``.

    ``cosine``, ``step`` and ``plateau`` warm up linearly; then half a cosine down to ``last``, two drops by ``factor``, or nothing: what
    ``plateau`` takes off depends on val (``Plateau``). ``one-cycle`` rises for ``rise`` of all steps and falls to ``last``, by cosines.
    """
    if schedule.name == "one-cycle":
        return _one_cycle(schedule, step, steps)
    warm_up = min(MAX_WARM_UP, int(WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    if schedule.name == "step":
        return float(schedule.numbers["factor"] ** sum(step >= drop * steps for drop in DROPS))
    if schedule.name == "plateau":
        return 1.0
    return _between(1.0, schedule.numbers["last"], (step - warm_up) / max(1, steps - warm_up))


def _one_cycle(schedule: Choice, step: int, steps: int) -> float:
    top = schedule.numbers["rise"] * (steps - 1)
    if step < top:
        return _between(FIRST, 1.0, step / top)
    return _between(1.0, schedule.numbers["last"], (step - top) / max(1e-9, steps - 1 - top))


def _between(first: float, last: float, done: float) -> float:
    """Half a cosine from ``first`` to ``last``."""
    return last + (first - last) * (1 + math.cos(math.pi * done)) / 2
