"""Values far from all others of their channel: what a sensor says when it fails (9999, -999), or the tail of what it measures.

Nothing here tells the two apart for sure. So what is found is left out of INT8 ranges only where the model then answers better, and told
to people only where there is a gap between it and the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgemm.contracts.card import Card
from edgemm.contracts.modality import modalities

FAR = 20.0  # quartile ranges from the median: 27 standard deviations of normal noise, which a sample never reaches
GAP = 3.0  # ranges of all other values between these and the nearest outlier: a tail that somebody measured thins out, it has no hole
SPREADS = ((25, 75), (5, 95), (1, 99))
"""Percentiles whose distance is the spread; the next wider ones where a channel mostly stands still."""
SHOWN = 3  # values, and channels, that a sentence names


@dataclass(frozen=True)
class Channel:
    """One channel of an input in which some values are far out.

    Attributes:
        low, high: The least and the largest of the other values.
        outside: The values far out, the most frequent first, no more than ``SHOWN``.
        count, values: How many are far out, of how many.
        gap: Whether nothing lies between them and the rest.
    """

    input: str
    channel: int
    channels: int
    low: float
    high: float
    outside: tuple[float, ...]
    count: int
    values: int
    gap: bool

    def __str__(self) -> str:
        where = f"'{self.input}'" if self.channels == 1 else f"'{self.input}', channel {self.channel} of 0 to {self.channels - 1}"
        numbers = ", ".join(f"{value:.6g}" for value in self.outside)
        return f"{where}: {self.count} of {self.values} values far out ({numbers}), the others from {self.low:.4g} to {self.high:.4g}"


def outlying(card: Card, batches: Sequence[Mapping[str, np.ndarray]]) -> list[Channel]:
    """The channels of measurements that hold values far out.

    Args:
        batches: Input -> samples (n, ..., channels) or (n,), of any length; inputs that are no measurements are passed over.
    """
    measured = [name for name, part in modalities(card).items() if part.measured()]
    return [channel for name in measured for channel in _channels(name, np.concatenate([_columns(batch[name]) for batch in batches]))]


def describe(channels: Sequence[Channel]) -> str:
    """Where values are far out, in words without a full stop."""
    more = f"; and {len(channels) - SHOWN} more channels" if len(channels) > SHOWN else ""
    return f"{'; '.join(map(str, channels[:SHOWN]))}{more}"


def clip(inputs: Mapping[str, np.ndarray], channels: Iterable[Channel]) -> dict[str, np.ndarray]:
    """``inputs`` with what is far out drawn to the nearest of the other values; new arrays where something may change."""
    clipped = dict(inputs)
    for channel in channels:
        if channel.input in clipped:
            values = np.array(clipped[channel.input])
            column = values if channel.channels == 1 else values[..., channel.channel]
            np.clip(column, channel.low, channel.high, out=column)
            clipped[channel.input] = values
    return clipped


def _columns(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, values.shape[-1] if values.ndim > 1 else 1)


def _channels(name: str, columns: np.ndarray) -> list[Channel]:
    spreads = [_spread(column) for column in columns.T]
    channels = []
    for number, (column, spread) in enumerate(zip(columns.T.astype(np.float64), spreads, strict=True)):
        middle = np.median(column)
        far = np.abs(column - middle) > FAR * (spread or max(abs(middle), 1.0))
        if not far.any() or far.all():
            continue
        low, high = float(column[~far].min()), float(column[~far].max())
        nearest = float(np.maximum(low - column[far], column[far] - high).min())
        outside, counts = np.unique(column[far], return_counts=True)
        shown = tuple(float(value) for value in outside[np.argsort(-counts, kind="stable")][:SHOWN])
        gap = nearest > GAP * max(high - low, spread) and (counts.max() > 1 or _beyond_a_tail(column, low, high, far))
        channels.append(Channel(name, number, columns.shape[1], low, high, shown, int(far.sum()), len(column), gap))
    return channels


def _beyond_a_tail(column: np.ndarray, low: float, high: float, far: np.ndarray) -> bool:
    """Whether values of one sign are as far off in orders of magnitude as all others span: a heavy tail's largest one never is."""
    if low * high <= 0 or (column[far] * low <= 0).any():
        return True
    sizes = np.log(np.abs(column[far])) - np.log(max(abs(low), abs(high)))
    return bool((np.maximum(sizes, np.log(min(abs(low), abs(high))) - np.log(np.abs(column[far]))) > abs(np.log(high / low))).all())


def _spread(column: np.ndarray) -> float:
    return next((float(high - low) for low, high in (np.percentile(column, pair) for pair in SPREADS) if high > low), 0.0)
