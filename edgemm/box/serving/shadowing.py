"""What skipping really costs, seen on the box: a share of the skipped calls runs all the same, and both answers are held together.

Nobody tells a box what is true. But where both answers decide alike nothing was lost, so that the loss is never more than the share that
decides otherwise.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from edgemm.data import exact

WINDOW = 500  # shadow runs that the interval is of
BAR = 1e4
"""Evidence at which the gate opens: without drift that takes 10,000 shadow runs on average, at least (a day at 5 decisions a second)."""
WORSE = (0.05, 0.1, 0.2, 0.4, 0.7)  # shares of disagreement that are looked for
CLOSER, CLOSER_RUNS = 0.5, 30
"""After a disagreement this share of the next so many skipped calls runs: one more or none decides sooner whether it was chance."""
CLOSED_AFTER = 200
"""Calls in a row, judged while it is open, of which no more than the limit disagree: then it shuts again."""


@dataclass(frozen=True)
class Shadow:
    """What shadow runs have shown.

    Attributes:
        runs, disagreed: All so far.
        share, low, high: Of the last ``WINDOW``, with its 95% interval; of the skipped calls, 0 to 1.
        limit: What the bundle allows of it.
    """

    runs: int
    disagreed: int
    share: float
    low: float
    high: float
    limit: float


class Watch:
    """Looks whether shadow runs disagree more often than a gate allows.

    Evidence is a Shiryaev-Roberts statistic for each share that is looked for, the likelihood of what was seen over that at the limit,
    summed over all moments at which a drift may have begun; a mean of them is compared with ``BAR``. However long a box runs, false alarms
    come no more often than once in ``BAR`` shadow runs, and a drift after months is found as soon as one on the first day.

    Source: Shin, Ramdas, Rinaldo (2023), E-detectors: a nonparametric framework for sequential change detection (arXiv 2203.03532).

    Args:
        limit: Share of disagreement that is allowed, 0 to 1.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        worse = np.array([share for share in WORSE if share > 2 * limit] or [(1 + limit) / 2])
        self._if_apart, self._if_alike = worse / limit, (1 - worse) / max(1 - limit, 1e-9)
        self._evidence = np.zeros(len(worse))
        self._last: deque[bool] = deque(maxlen=WINDOW)
        self._while_open: deque[bool] = deque(maxlen=CLOSED_AFTER)
        self._runs = self._apart = self._look_closer = 0
        self.is_open = False

    def share(self, usual: float) -> float:
        """How much of the skipped calls should run now."""
        return max(usual, CLOSER) if self._look_closer and usual > 0 else usual

    def see(self, is_apart: bool) -> bool:
        """Take a shadow run in; whether the gate opens or shuts by it."""
        self._runs, self._apart = self._runs + 1, self._apart + is_apart
        self._last.append(is_apart)
        self._look_closer = CLOSER_RUNS if is_apart else max(0, self._look_closer - 1)
        if self.is_open:
            self._while_open.append(is_apart)
            if len(self._while_open) == CLOSED_AFTER and sum(self._while_open) <= self.limit * CLOSED_AFTER:
                self.is_open = False
                self._evidence[:] = 0
                self._last.clear()
                return True
            return False
        self._evidence = (1 + self._evidence) * (self._if_apart if is_apart else self._if_alike)
        if float(self._evidence.mean()) < BAR:
            return False
        self.is_open = True
        self._while_open.clear()
        return True

    def shown(self) -> Shadow:
        """What was seen, with its interval."""
        runs, apart = len(self._last), sum(self._last)
        low, high = (exact.lower(apart, runs, 0.025), exact.upper(apart, runs, 0.025)) if runs else (0.0, 1.0)
        return Shadow(self._runs, self._apart, apart / runs if runs else 0.0, low, high, self.limit)
