"""Percentiles and ratios of timings, with 95% intervals.

Calls of one round share whatever the box was doing then, and rounds of one process share where its memory lies: what is independent are
launches or, where there is one launch only, at best rounds. So those are resampled, whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgemm.contracts.interval import Interval

RESAMPLES = 2000
CELLS = 2_000_000  # numbers held at once while resampling: 16 MB
SEED = 20261121
Z95, Z98 = 1.959964, 2.326348
LEAST_LAUNCHES = 3  # from here on launches themselves show how much processes of one candidate differ
PROCESS_SD = 0.02  # of the logarithm of a process's p50, assumed where too few launches show it; measured: 0.014 to 0.020


@dataclass(frozen=True)
class RatioInterval(Interval):
    """One candidate's p50 over another's, from paired rounds, with its 95% interval.

    ``verdict`` is ``faster``, ``slower`` or ``no difference shown``. Where launches stand behind it, it is claimed from the 98% interval
    (``sure``), so that of 100 comparisons of a candidate with itself about two claim a difference.
    """

    sure: tuple[float, float] | None = None

    @property
    def verdict(self) -> str:
        low, high = self.sure or (self.low, self.high)
        if high is not None and high < 1:
            return "faster"
        if low is not None and low > 1:
            return "slower"
        return "no difference shown"


def by_launch(rounds: Sequence[Sequence[float]], launches: Sequence[int]) -> list[list[float]]:
    """The calls of each launch together where there are enough launches to resample; else the rounds as they are."""
    groups: dict[int, list[float]] = {}
    for round_, launch in zip(rounds, launches, strict=False):
        groups.setdefault(launch, []).extend(round_)
    return list(groups.values()) if len(groups) >= LEAST_LAUNCHES else [list(round_) for round_ in rounds]


def spread_of(values: Sequence[float]) -> Interval:
    """The mean of a few independent values, none below 0, with the interval of Student's t."""
    array = np.asarray(values, np.float64)
    if len(array) < 2:
        return Interval(float(array.mean()), None, None)
    half = _t(Z95, len(array) - 1) * float(array.std(ddof=1)) / len(array) ** 0.5
    return Interval(float(array.mean()), max(0.0, float(array.mean()) - half), float(array.mean()) + half)


def percentiles(rounds: Sequence[Sequence[float]], shares: Sequence[float], *, seed: int = SEED) -> list[Interval]:
    """Percentiles over the calls of all rounds, by nearest rank: each is the time of a call that was made.

    Args:
        rounds: Milliseconds of each call, one sequence a round; they may differ in length.
        shares: 0 to 100.
    """
    values = np.percentile(_pooled(rounds), shares, method="inverted_cdf")
    if len(rounds) < 2:
        return [Interval(float(value), None, None) for value in values]
    drawn = _resampled(rounds, shares, _draws(len(rounds), seed))
    return [Interval(float(value), *_spread(value, drawn[:, column], len(rounds))) for column, value in enumerate(values)]


def ratio(
    rounds: Sequence[Sequence[float]],
    baseline: Sequence[Sequence[float]],
    *,
    share: float = 50,
    launches: Sequence[int] | None = None,
    seed: int = SEED,
) -> RatioInterval:
    """How many times as long as ``baseline`` it takes; below 1 is faster. Rounds at the same position were taken side by side.

    Args:
        launches: Which launch took each round. From three on, each gives one ratio of its own, and the interval is Student's t over
            their logarithms. Fewer cannot show how much processes of one candidate differ: ``PROCESS_SD`` is assumed. None = the two
            processes at hand are what is compared, and nothing is added.
    """
    count = min(len(rounds), len(baseline))
    if launches is not None and len(set(launches[:count])) >= LEAST_LAUNCHES:
        return _over_launches(rounds[:count], baseline[:count], launches[:count], share)
    value = float(np.percentile(_pooled(rounds[:count]), share) / np.percentile(_pooled(baseline[:count]), share))
    if count < 2:
        return RatioInterval(value, None, None)
    draws = _draws(count, seed)
    drawn = _resampled(rounds[:count], [share], draws) / _resampled(baseline[:count], [share], draws)
    low, high = _spread(value, drawn[:, 0], count)
    if launches is None:
        return RatioInterval(value, low, high)
    processes = PROCESS_SD * (2 / len(set(launches[:count]))) ** 0.5
    return RatioInterval(value, *_wider(value, low, high, Z95 * processes, 1.0), sure=_wider(value, low, high, Z98 * processes, Z98 / Z95))


def _over_launches(
    rounds: Sequence[Sequence[float]], baseline: Sequence[Sequence[float]], launches: Sequence[int], share: float
) -> RatioInterval:
    logs = []
    for launch in sorted(set(launches)):
        ours, theirs = (_pooled([r for r, of in zip(side, launches, strict=True) if of == launch]) for side in (rounds, baseline))
        logs.append(np.log(np.percentile(ours, share) / np.percentile(theirs, share)))
    middle, error = float(np.mean(logs)), float(np.std(logs, ddof=1)) / len(logs) ** 0.5
    (low, high), sure = (
        (float(np.exp(middle - t * error)), float(np.exp(middle + t * error))) for t in (_t(Z95, len(logs) - 1), _t(Z98, len(logs) - 1))
    )
    return RatioInterval(float(np.exp(middle)), low, high, sure)


def _wider(value: float, low: float, high: float, more: float, factor: float) -> tuple[float, float]:
    """An interval in logarithms, ``factor`` times as wide, and then by an independent error of half width ``more``."""
    down, up = (((factor * np.log(edge / value)) ** 2 + more**2) ** 0.5 for edge in (low, high))
    return float(value * np.exp(-down)), float(value * np.exp(up))


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
    values = []
    for piece in pieces:
        weights = np.cumsum(piece[:, owner], axis=1)
        ranks = np.maximum(1, np.ceil(weights[:, -1:] * np.asarray(shares) / 100)).astype(np.int64)
        above = np.arange(len(piece))[:, None] * (weights.max() + 1)  # lifts each row above the one before: one search for all
        places = np.searchsorted((weights + above).ravel(), (ranks + above).ravel()).reshape(ranks.shape)
        values.append(samples[places - np.arange(len(piece))[:, None] * len(samples)])
    return np.concatenate(values)


def _spread(value: float, drawn: np.ndarray, rounds: int) -> tuple[float, float]:
    """Percentile interval in logarithms, widened by the factor by which resampling few rounds is too narrow; it holds ``value``.

    Source: Hesterberg (2015), The American Statistician 69: the bootstrap's spread is sqrt((n-1)/n) of the sample's, and a t quantile
    belongs where a normal one stands.
    """
    low, high = np.log(np.percentile(drawn, (2.5, 97.5))) - np.log(value)
    low, high = min(low, 0.0), max(high, 0.0)
    widen = (rounds / (rounds - 1)) ** 0.5 * _t(Z95, rounds - 1) / Z95
    return float(value * np.exp(low * widen)), float(value * np.exp(high * widen))


def _t(normal: float, freedom: int) -> float:
    """The quantile of Student's t that belongs to the normal quantile ``normal``, to 4% from 2 degrees on (7% at 2 for 99%).

    Source: Cornish-Fisher expansion, Abramowitz & Stegun 26.7.5.
    """
    z = normal
    terms = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + sum(float(term / freedom ** (power + 1)) for power, term in enumerate(terms))
