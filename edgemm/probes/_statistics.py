"""Percentiles and ratios of timings, with 95% intervals by resampling rounds.

Calls of one round share whatever the box was doing then; rounds are what is independent. So rounds are resampled, whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
CELLS = 4_000_000  # numbers held at once while resampling: 32 MB
SEED = 20261121


@dataclass(frozen=True)
class Interval:
    """A value with its 95% interval; no interval from fewer than two rounds."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Ratio:
    """One candidate's p50 over another's, from paired rounds. ``verdict`` is ``faster``, ``slower`` or ``no difference shown``."""

    value: float
    low: float | None
    high: float | None

    @property
    def verdict(self) -> str:
        if self.high is not None and self.high < 1:
            return "faster"
        if self.low is not None and self.low > 1:
            return "slower"
        return "no difference shown"


def percentiles(rounds: Sequence[Sequence[float]], shares: Sequence[float], *, seed: int = SEED) -> list[Interval]:
    """Percentiles over the calls of all rounds.

    Args:
        rounds: Milliseconds of each call, one sequence a round; they may differ in length.
        shares: 0 to 100.
    """
    table = _table(rounds)
    values = np.nanpercentile(table, shares)
    if len(table) < 2:
        return [Interval(float(value), None, None) for value in values]
    drawn = np.concatenate([_percentiles_of(table[rows], shares) for rows in _draws(table, seed)])
    return [Interval(float(value), *_spread(value, drawn[:, column], len(table))) for column, value in enumerate(values)]


def ratio(rounds: Sequence[Sequence[float]], baseline: Sequence[Sequence[float]], *, share: float = 50, seed: int = SEED) -> Ratio:
    """How many times as long as ``baseline`` it takes; below 1 is faster. Rounds at the same position were taken side by side."""
    count = min(len(rounds), len(baseline))
    ours, theirs = _table(rounds[:count]), _table(baseline[:count])
    value = float(np.nanpercentile(ours, share) / np.nanpercentile(theirs, share))
    if count < 2:
        return Ratio(value, None, None)
    both = np.concatenate([ours, theirs], axis=1)
    drawn = []
    for rows in _draws(both, seed):
        taken = both[rows]
        mine, other = taken[..., : ours.shape[1]], taken[..., ours.shape[1] :]
        drawn.append(_percentiles_of(mine, [share])[:, 0] / _percentiles_of(other, [share])[:, 0])
    return Ratio(value, *_spread(value, np.concatenate(drawn), count))


def _table(rounds: Sequence[Sequence[float]]) -> np.ndarray:
    """(rounds, longest) with NaN where a round is shorter."""
    width = max(len(round_) for round_ in rounds)
    table = np.full((len(rounds), width), np.nan)
    for row, round_ in enumerate(rounds):
        table[row, : len(round_)] = round_
    return table


def _draws(table: np.ndarray, seed: int) -> list[np.ndarray]:
    """Row numbers of every resample, in pieces that keep memory bounded: each (resamples, rounds)."""
    rows = np.random.default_rng(seed).integers(0, len(table), (RESAMPLES, len(table)))
    pieces = max(1, -(-RESAMPLES * table.size // CELLS))
    return np.array_split(rows, pieces)


def _percentiles_of(tables: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """(resamples, rounds, calls) -> (resamples, shares)."""
    flat = tables.reshape(len(tables), -1)
    return (np.nanpercentile if np.isnan(flat).any() else np.percentile)(flat, shares, axis=1).T


def _spread(value: float, drawn: np.ndarray, rounds: int) -> tuple[float, float]:
    """Percentile interval in logarithms, widened by the factor by which resampling few rounds is too narrow.

    Source: Hesterberg (2015), The American Statistician 69: the bootstrap's spread is sqrt((n-1)/n) of the sample's, and a t quantile
    belongs where a normal one stands.
    """
    low, high = np.log(np.percentile(drawn, (2.5, 97.5))) - np.log(value)
    widen = (rounds / (rounds - 1)) ** 0.5 * _t975(rounds - 1) / 1.96
    return float(value * np.exp(low * widen)), float(value * np.exp(high * widen))


def _t975(freedom: int) -> float:
    """97.5% quantile of Student's t, to 1% from 2 degrees on. Source: Cornish-Fisher expansion, Abramowitz & Stegun 26.7.5."""
    z = 1.959964
    terms = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + sum(term / freedom ** (power + 1) for power, term in enumerate(terms))
