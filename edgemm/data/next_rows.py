"""What rows that were seen say about the next ones: bounds on what a set of so many will lose, exact at any size. numpy only.

A bound on all data like val says little about one test: a thousand rows are themselves unsure by a few tenths of a point. Here the claim
is about ``next_rows`` rows that nobody has seen, by themselves: that no more than ``limit`` of them are lost. It wants more of val than the
claim about all, the more so the fewer the next ones are.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from edgemm.data.exact import log_choose

RATES, STEPS, LEVELS = 24, 128, 400
"""Rates of gains, rates of losses at each, and chances that are looked at; twice as many of each move a p-value by less than 5e-4."""
SPREADS = 8  # standard deviations of a count to either side, beyond which its chance is below 1e-12
LEAST = -20  # of what is tabled: 2 * losses - gains; below it the p-value is taken for that
LARGEST = 0.5  # p-values beyond it say no more


def allowed(next_rows: int, limit: float) -> int:
    """Rows of the next ones that may be lost at a limit from 0 to 1."""
    return math.floor(next_rows * limit + 1e-9)


def chance_of(losses: int, rows: int, next_rows: int, limit: float) -> float:
    """The p-value of "of the next rows more than ``limit`` will be lost", after ``losses`` among ``rows``; gains are not counted.

    Exact in whatever bag the rows were dealt from: were ``losses`` seen and one too many to come, then of all these no more than ``losses``
    fell among the rows seen, which the hypergeometric distribution gives. It also holds for a threshold that was searched among nested
    ones: losses then only grow from one to the next, and the first at which the bag holds too many decides.

    Source: the Fisher-Irwin test read as a prediction, Thatcher (1964) JRSS B 26; Meeker, Hahn, Escobar, Statistical Intervals, 6.7.
    """
    more = allowed(next_rows, limit) + 1
    if more > next_rows:
        return 0.0
    bag = losses + more
    seen = np.arange(min(losses, rows) + 1)
    coming = bag - seen
    fits = coming <= next_rows
    logs = log_choose(rows, seen[fits]) + log_choose(next_rows, coming[fits]) - log_choose(rows + next_rows, np.array([bag]))
    return float(min(1.0, np.exp(logs).sum()))


def chance_of_paired(losses: int, gains: int, rows: int, next_rows: int, limit: float) -> float:
    """The p-value of "of the next rows more than ``limit`` will be lost, less those that are gained".

    As in ``exact.chance_of_paired`` what speaks against the claim is ``losses - gains / 2``. Let q(l, g) be the chance that too many of the
    next rows are lost at rates l and g. A threshold out of a sequence, where q is above u, is taken with at most A(u) = the largest chance
    of so few losses over all rates with q > u; so a taken one loses too much of the next rows with at most the integral of A over u from
    0 to 1, in whatever order losses and gains come. That is the p-value. Rows are taken to be drawn independently.
    """
    if allowed(next_rows, limit) >= next_rows:
        return 0.0
    chances, place = _chances(rows, next_rows, limit), max(0, 2 * losses - gains - LEAST)
    return float(chances[place]) if place < len(chances) else 1.0


@functools.lru_cache(maxsize=256)
def gains_help(rows: int, next_rows: int, limit: float, error: float = 0.05) -> bool:
    """Whether ``chance_of_paired`` shows what ``chance_of`` shows where there are no gains; known before any row was seen."""
    return not any(
        chance_of(losses, rows, next_rows, limit) <= error < chance_of_paired(losses, 0, rows, next_rows, limit)
        for losses in range(_last(rows, next_rows, limit))
    )


def rows_needed(next_rows: int | None, share: float, error: float = 0.05) -> int:
    """Rows without a single loss that show it for so many next rows; None = for as many as they are themselves."""
    low, high = 0, 1
    while chance_of(0, high, next_rows or high, share) > error:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if chance_of(0, middle, next_rows or middle, share) > error else (low, middle)
    return high


@functools.lru_cache(maxsize=256)
def _chances(rows: int, next_rows: int, limit: float) -> np.ndarray:
    """The p-values of ``2 * losses - gains`` from ``LEAST`` on, up to ``LARGEST``."""
    most = allowed(next_rows, limit)
    fewer = min(rows, next_rows)
    edges = np.linspace(0, 1, LEVELS + 1) ** 2  # A falls fast near 0
    last = 2 * _last(rows, next_rows, limit)
    worst = np.zeros((LEVELS, last - LEAST + 1))
    for gain in np.concatenate([[0.0], np.geomspace(0.1 / (rows + next_rows), min(80 / fewer, 0.3), RATES - 1)]):
        reach = SPREADS * math.sqrt((limit + 2 * gain) / next_rows) + 20 / next_rows
        losing = np.linspace(0, min(1.0 - gain, limit + gain + reach), STEPS)
        exceeds = 1 - _at_most(next_rows, losing, gain, 1, most, most)[:, 0]
        so_few = _at_most(rows, losing, gain, 2, LEAST, last)
        at = np.searchsorted(exceeds, edges[:-1], side="right").clip(1, STEPS - 1)
        below, above = exceeds[at - 1], exceeds[at]
        part = np.clip((edges[:-1] - below) / np.maximum(above - below, 1e-300), 0, 1)[:, None]
        worst = np.maximum(worst, so_few[at - 1] * (1 - part) + so_few[at] * part)
    chances: np.ndarray = np.minimum(1.0, (np.diff(edges)[:, None] * worst).sum(axis=0))  # at the left of each step: never too small
    return chances


def _last(rows: int, next_rows: int, limit: float) -> int:
    """Losses whose p-value, without gains, is beyond ``LARGEST``."""
    high = 1
    while high < rows and chance_of(high, rows, next_rows, limit) < LARGEST:
        high *= 2
    return min(high, rows)


def _at_most(rows: int, loss: np.ndarray, gain: float, weight: int, low: int, high: int) -> np.ndarray:
    """The chances that ``weight * losses - gains`` of so many rows is at most ``low``, ..., ``high``: (rates of losses, values).

    By the Fourier transform of one row's distribution, to the power of rows; exact but for rounding, 1e-12 here.
    """
    mean = rows * (weight * loss - gain)
    reach = SPREADS * math.sqrt(rows * (weight**2 * float(loss.max()) + gain)) + 40
    first = math.floor(float(mean.min()) - reach)
    size = 1 << (math.ceil(float(mean.max()) + reach) - first).bit_length()
    turn = np.exp(-2j * np.pi * np.arange(size // 2 + 1) / size)
    one = 1 + loss[:, None] * (turn**weight - 1) + gain * (turn.conj() - 1)
    chances = np.fft.irfft(one**rows * turn.conj() ** first, size)  # place 0 is the value ``first``
    sums = np.cumsum(np.maximum(chances, 0), axis=1).clip(0, 1)
    places = np.arange(low, high + 1) - first
    found: np.ndarray = np.where(places < 0, 0.0, sums[:, places.clip(0, size - 1)])
    return found
