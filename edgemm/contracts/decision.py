"""What serving tells: one decision, the reading of each output, the classes that went on or off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Sample:
    """What one input's branch gets.

    Attributes:
        array: One sample with its batch axis.
        time_s: When it ends, on the monotonic clock.
        arrived_s: When its last part came out of its source.
        frame: The picture it was made of, for whoever wants to see it.
    """

    array: np.ndarray
    time_s: float
    arrived_s: float
    frame: Any = None


@dataclass(frozen=True)
class Observation:
    """What one answer of the model says of an output, before any threshold: scores of its classes, or a number.

    Attributes:
        scores: Class -> score, 0 to 1, in the card's order; None for a number.
    """

    scores: Mapping[str, float] | None = None
    value: float | None = None
    unit: str | None = None


@dataclass(frozen=True)
class Change:
    """A class that went on or off.

    Attributes:
        is_event: Worth telling: it went on, it is not a quiet class, and its cool-down is over.
    """

    output: str
    label: str
    is_on: bool
    score: float
    is_event: bool


@dataclass(frozen=True)
class Reading:
    """One output now.

    Attributes:
        label: The class that has led for ``debounce`` decisions; None for a number.
        scores: Class -> score of this moment, in the card's order.
        on: Classes that are on.
        value: The number of a regression, the likeness of a pair of embeddings; else None.
        moved: The number differs from the one told last.
    """

    label: str | None = None
    scores: Mapping[str, float] | None = None
    on: tuple[str, ...] = ()
    value: float | None = None
    unit: str | None = None
    moved: bool = False


@dataclass(frozen=True)
class Decision:
    """One answer of the model.

    Attributes:
        number: Counts from 1.
        at_s: When the newest data it rests on ended, on the monotonic clock.
        wall_s: Wall clock, for people.
        voted: Inputs that were there.
        stood_in: Inputs that a stand-in replaced, or that the model was trained to do without.
        ages_s: Input that voted -> how old its data was.
        latency_ms: From the arrival of the newest data it rests on.
        frame: The picture it rests on, where there is one.
        embedded: Input -> what its branch made of it, for whoever watches drift.
    """

    number: int
    at_s: float
    wall_s: float
    readings: Mapping[str, Reading]
    changes: tuple[Change, ...]
    voted: tuple[str, ...]
    stood_in: tuple[str, ...]
    ages_s: Mapping[str, float]
    latency_ms: float
    frame: Any = field(default=None, compare=False, repr=False)
    samples: Mapping[str, Sample] = field(default_factory=dict, compare=False, repr=False)
    embedded: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict, compare=False, repr=False)
