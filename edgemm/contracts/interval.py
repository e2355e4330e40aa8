"""A number and how well it is known."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A value with its 95% interval, where one is known."""

    value: float
    low: float | None = None
    high: float | None = None


def show_interval(low: float | None, high: float | None) -> str:
    """A 95% interval as people read it, "" where there is none."""
    return "" if low is None or high is None else f"[{low:.3g}, {high:.3g}]"


def rows_to_show(n: int | None, low: float | None, high: float | None, limit: float) -> int | None:
    """About how many rows leave a value known to within ``limit``, where ``n`` of them leave [low, high]; None where nobody can tell.

    Half of an interval shrinks with the square root of the rows.
    """
    if not n or low is None or high is None or limit <= 0:
        return None
    return math.ceil(n * ((high - low) / 2 / limit) ** 2)


def rows_to_show_below(n: int | None, low: float | None, high: float | None, limit: float) -> int | None:
    """About how many rows bring the upper end down to ``limit``, if the middle stays where ``n`` of them have it; None where none could.

    Half of an interval shrinks with the square root of the rows.
    """
    if not n or low is None or high is None or high <= limit or (middle := (low + high) / 2) >= limit:
        return None
    return math.ceil(n * ((high - middle) / (limit - middle)) ** 2)
