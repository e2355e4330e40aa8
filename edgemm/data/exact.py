"""Exact bounds on what rows that are right or wrong can say: of a share, and of a loss between two answers to the same rows. numpy only."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

SET_ASIDE = 1e-3
"""Of the error allowed: the chance that the rate of gains lies outside of what is looked at (``chance_of_paired``)."""
LOOKED_AT = 24  # rates of gains; what is looked for is smooth in them, and twice as many move it by less than 1e-4
TAIL = 1e-12  # gains of which less than this is left are counted against the bound
HALVINGS = 30  # of a bisection: to 1e-9


def at_most(count: int, rows: int, rate: float) -> float:
    """The chance of at most ``count`` among ``rows`` that each come with chance ``rate``."""
    if count < 0 or count >= rows or rate <= 0:
        return float(count >= 0)
    if rate >= 1:
        return 0.0
    k = np.arange(count + 1)
    logs = log_choose(rows, k) + k * math.log(rate) + (rows - k) * math.log1p(-rate)
    return float(min(1.0, np.exp(logs).sum()))


def upper(count: int, rows: int, error: float = 0.05) -> float:
    """The highest rate that ``count`` of ``rows`` leave possible: with chance ``error`` it is higher.

    Source: Clopper & Pearson (1934), Biometrika 26.
    """
    return 1.0 if count >= rows else _where(lambda rate: at_most(count, rows, rate) > error)


def lower(count: int, rows: int, error: float = 0.05) -> float:
    """The lowest such rate."""
    return 1.0 - upper(rows - count, rows, error)


def rows_needed(share: float, error: float = 0.05) -> int:
    """Rows without a single loss that show a loss of at most ``share`` of them, with the part of the error that ``SET_ASIDE`` takes."""
    return math.ceil(math.log(error - SET_ASIDE) / math.log1p(-share)) if 0 < share < 1 else 1


def chance_of(losses: int, rows: int, limit: float) -> float:
    """The p-value of "losses come with a rate above ``limit``"; gains are not counted. Exact: the binomial's tail at ``limit``."""
    return at_most(losses, rows, limit)


@functools.cache
def chance_of_paired(losses: int, gains: int, rows: int, limit: float) -> float:
    """The p-value of "losses less gains come with a rate above ``limit``", of rows that two answers got right otherwise.

    Exact for any number of rows. Of (losses, gains) what speaks against the claim is ``losses - gains / 2``, and the p-value the largest
    chance of so little over all rates of gains g with a rate of losses of limit + g. Those g that the gains themselves rule out at the
    level ``SET_ASIDE`` are not looked at, and that level is added. With half of a gain's weight a few gains make up for a few losses, and
    rows without either are as strong as for ``chance_of``.

    Source: Berger & Boos (1994), P values maximized over a confidence set for the nuisance parameter, JASA 89.
    """
    low, high = _within(gains, rows)
    high = min(high, (1 - limit) / 2)
    return min(1.0, SET_ASIDE + max(_tail(losses - gains / 2, rows, limit, g) for g in np.linspace(min(low, high), high, LOOKED_AT)))


@functools.cache
def upper_paired(losses: int, gains: int, rows: int, error: float = 0.05, *, counts_gains: bool = True) -> float:
    """The upper bound that belongs to the p-values: the least limit (0 to 1) that these rows show at ``error``."""

    def is_possible(limit: float) -> bool:
        chance = chance_of_paired(losses, gains, rows, limit) if counts_gains else chance_of(losses, rows, limit)
        return chance > error

    return _where(is_possible, halvings=HALVINGS // 2)  # to 3e-5: it is told with two digits


@functools.cache
def _within(gains: int, rows: int) -> tuple[float, float]:
    """Rates of gains that so many leave possible, but for ``SET_ASIDE``."""
    return lower(gains, rows, SET_ASIDE / 2) if gains else 0.0, upper(gains, rows, SET_ASIDE / 2)


def _tail(most: float, rows: int, limit: float, gain: float) -> float:
    """The chance that losses - gains / 2 is at most ``most``, where a row gains with ``gain`` and loses with ``limit + gain``."""
    loss = min(1.0, limit + gain)
    if gain <= 0:
        return at_most(math.floor(most), rows, loss)
    spread = (rows * gain) ** 0.5
    last = min(rows, int(rows * gain + 8 * spread + 20))
    gains = np.arange(last + 1)
    of_gains = np.exp(log_choose(rows, gains) + gains * math.log(gain) + (rows - gains) * math.log1p(-gain))
    losses = np.arange(max(0, math.floor(most + last / 2)) + 1)
    allowed = losses[:, None] <= most + gains[None] / 2
    left = rows - gains
    rate = min(loss / (1 - gain), 1 - 1e-15)
    fits = allowed & (losses[:, None] <= left[None])
    logs = np.where(fits, log_choose(left[None], np.minimum(losses[:, None], left[None])), -np.inf)
    logs = logs + losses[:, None] * math.log(rate) + np.maximum(left[None] - losses[:, None], 0) * math.log1p(-rate)
    cut = max(0.0, 1.0 - float(of_gains.sum()))
    return float((np.exp(logs).sum(axis=0) * of_gains).sum()) + (cut if cut > TAIL else 0.0)


def _where(is_possible: Callable[[float], bool], *, halvings: int = HALVINGS) -> float:
    """The rate from which on it is not possible, from above."""
    low, high = 0.0, 1.0
    for _ in range(halvings):
        middle = (low + high) / 2
        low, high = (middle, high) if is_possible(middle) else (low, middle)
    return high


def log_choose(n: int | np.ndarray, k: np.ndarray) -> np.ndarray:
    """The logarithm of how many ways there are to choose ``k`` of ``n``, each at most ``n``."""
    logs = _log_factorials(1 << int(np.max(n)).bit_length())
    chosen: np.ndarray = logs[n] - logs[k] - logs[np.subtract(n, k)]
    return chosen


@functools.cache
def _log_factorials(most: int) -> np.ndarray:
    """Of 0 to ``most``."""
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1)))])
