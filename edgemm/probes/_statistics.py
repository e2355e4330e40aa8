"""Percentiles and ratios of timings, with 95% intervals by resampling rounds.

Calls of one round share whatever the box was doing then; rounds are what is independent. So rounds are resampled, whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
CELLS = 2_000_000  # numbers held at once while resampling: 16 MB
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
    values = np.percentile(_pooled(rounds), shares)
    if len(rounds) < 2:
        return [Interval(float(value), None, None) for value in values]
    drawn = _resampled(rounds, shares, _draws(len(rounds), seed))
    return [Interval(float(value), *_spread(value, drawn[:, column], len(rounds))) for column, value in enumerate(values)]


def ratio(rounds: Sequence[Sequence[float]], baseline: Sequence[Sequence[float]], *, share: float = 50, seed: int = SEED) -> Ratio:
    """How many times as long as ``baseline`` it takes; below 1 is faster. Rounds at the same position were taken side by side."""
    count = min(len(rounds), len(baseline))
    value = float(np.percentile(_pooled(rounds[:count]), share) / np.percentile(_pooled(baseline[:count]), share))
    if count < 2:
        return Ratio(value, None, None)
    draws = _draws(count, seed)
    drawn = _resampled(rounds[:count], [share], draws) / _resampled(baseline[:count], [share], draws)
    return Ratio(value, *_spread(value, drawn[:, 0], count))


def _pooled(rounds: Sequence[Sequence[float]]) -> np.ndarray:
    return np.concatenate([np.asarray(round_, np.float64) for round_ in rounds])


def _draws(rounds: int, seed: int) -> np.ndarray:
    """How often each round is in each resample: int32 (resamples, rounds)."""
    return np.random.default_rng(seed).multinomial(rounds, [1 / rounds] * rounds, RESAMPLES).astype(np.int32)


def _resampled(rounds: Sequence[Sequence[float]], shares: Sequence[float], draws: np.ndarray) -> np.ndarray:
    """Percentiles of each resample (resamples, shares), by nearest rank: samples are sorted once, a resample only weighs them."""
    samples = _pooled(rounds)
    owner = np.repeat(np.arange(len(rounds)), [len(round_) for round_ in rounds])
    order = np.argsort(samples)
    samples, owner = samples[order], owner[order]
    pieces = np.array_split(draws, max(1, -(-len(draws) * len(samples) // CELLS)))
    found = []
    for piece in pieces:
        weights = np.cumsum(piece[:, owner], axis=1)
        ranks = np.maximum(1, np.ceil(weights[:, -1:] * np.asarray(shares) / 100)).astype(np.int64)
        above = np.arange(len(piece))[:, None] * (weights.max() + 1)  # lifts each row above the one before: one search for all
        places = np.searchsorted((weights + above).ravel(), (ranks + above).ravel()).reshape(ranks.shape)
        found.append(samples[places - np.arange(len(piece))[:, None] * len(samples)])
    return np.concatenate(found)


def _spread(value: float, drawn: np.ndarray, rounds: int) -> tuple[float, float]:
    """Percentile interval in logarithms, widened by the factor by which resampling few rounds is too narrow.

    Source: Hesterberg (2015), The American Statistician 69: the bootstrap's spread is sqrt((n-1)/n) of the sample's, and a t quantile
    belongs where a normal one stands.
    """
    low, high = np.log(np.percentile(drawn, (2.5, 97.5))) - np.log(value)
    widen = (rounds / (rounds - 1)) ** 0.5 * _t975(rounds - 1) / 1.96
    return float(value * np.exp(low * widen)), float(value * np.exp(high * widen))


def _t975(freedom: int) -> float:
    """97.5% quantile of Student's t, to 3% from 2 degrees on. Source: Cornish-Fisher expansion, Abramowitz & Stegun 26.7.5."""
    z = 1.959964
    terms = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + sum(term / freedom ** (power + 1) for power, term in enumerate(terms))
