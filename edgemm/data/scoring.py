"""What tasks score with: a metric with its 95% interval, and the paired interval of what another model lost on the same rows. numpy only.

Two kinds of metric. ``RowScores`` is an average over rows (or, as F1, has an influence per row): its intervals are formulas. ``Resampled``
needs all rows together (mean average precision, intersection over union): rows are drawn anew with replacement, the same ones for every
model, and a task gives the metric of weighted rows from pieces that it made once.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgemm.contracts import task as tasks
from edgemm.contracts.card import Output
from edgemm.contracts.report_parts import Confusion
from edgemm.contracts.task import Score, Statistics
from edgemm.errors import MeasureError

Z = 1.959964  # two-sided 95% of the normal distribution
DRAWS = 1000  # the ends of a 95% interval then rest on 25 draws each
SEED = 0
DRAWN_AT_ONCE = 1 << 22  # row weights held at a time: 32 MB


@dataclass(frozen=True)
class Metric:
    """What a guarded number is.

    Attributes:
        better: ``higher`` or ``lower``.
        in_points: It is a share from 0 to 1, and a difference is told in points; else both are in ``unit``.
    """

    name: str
    better: str = "higher"
    unit: str = "ratio"
    in_points: bool = True

    @property
    def sign(self) -> float:
        return 1.0 if self.better == "higher" else -1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Paired(Statistics):
    """What both kinds share: how a value and an interval become scores.

    Attributes:
        spread: Standard deviation of the truth, where the metric is an error in the truth's own unit.
    """

    metric: Metric
    spread: float | None = None

    @abstractmethod
    def value(self) -> float:
        """The metric of all rows."""

    @abstractmethod
    def count(self) -> int:
        """Rows."""

    @abstractmethod
    def interval(self) -> tuple[float | None, float | None]:
        """Of the value."""

    @abstractmethod
    def interval_of(self, terms: Sequence[tuple[float, Any]], value: float, most: float) -> tuple[float | None, float | None]:
        """Of ``value``, a weighted sum of metrics over answers to the same rows, which is never beyond ``most`` either way."""

    def score(self) -> Score:
        low, high = self.interval()
        return Score(self.metric.name, self.value(), low, high, self.count(), self.metric.better, self.metric.unit)

    def drop(self, after: Statistics) -> Score:
        sign = self.metric.sign
        lost, low, high = self._sum([(sign, self), (-sign, after)], 1.0)
        per_point = 1.0 if self.spread is None else self.spread / 100
        return Score("accuracy_drop_points", lost, low, high, self.count(), "lower", self._unit, per_point)

    def gain(self, weight: float, others: Sequence[tuple[float, Statistics]] = ()) -> Score:
        sign = self.metric.sign
        terms = [(sign * factor, one) for factor, one in [(weight, self), *others]]
        gained, low, high = self._sum(terms, sum(abs(factor) for factor, _ in terms))
        return Score("gain_points", gained, low, high, self.count(), "higher", self._unit)

    def goodness(self) -> float:
        return self.value() if self.metric.better == "higher" else 1 - self.value() / (self.spread or 1.0)

    @property
    def _unit(self) -> str:
        return "points" if self.metric.in_points else self.metric.unit

    def _sum(self, terms: Sequence[tuple[float, Any]], most: float) -> tuple[float, float | None, float | None]:
        """The weighted sum with its interval, in points where the metric is a share."""
        factor = 100.0 if self.metric.in_points else 1.0
        total = sum(weight * one.value() for weight, one in terms)
        low, high = self.interval_of(terms, total, most if self.metric.in_points else np.inf)
        return factor * total, None if low is None else factor * low, None if high is None else factor * high


@dataclass(frozen=True, kw_only=True, eq=False)
class RowScores(Paired):
    """A metric that is an average over rows.

    Attributes:
        rows: float64 (n,), one value a row whose mean's variance is the metric's variance.
        whole: The metric; None = the mean of ``rows``.
        is_share: Each row is right or wrong, or a share of that: the interval of one model is Wilson's, and the paired one has half a
            pseudo-row in each cell, so that two models that never disagree on n rows still may differ by about 2/n.

    Source: Wilson (1927), JASA 22; Agresti & Min (2005), Statistics in Medicine 24, for matched proportions.
    """

    rows: np.ndarray
    whole: float | None = None
    is_share: bool = False

    def value(self) -> float:
        return float(self.rows.mean()) if self.whole is None else self.whole

    def count(self) -> int:
        return len(self.rows)

    def interval(self) -> tuple[float | None, float | None]:
        value, n = self.value(), len(self.rows)
        if self.is_share:
            return _wilson(value, n)
        if n < 2:
            return None, None
        half = Z * float(self.rows.std(ddof=1)) / n**0.5
        return max(0.0, value - half), min(1.0, value + half) if self.metric.in_points else value + half

    def interval_of(self, terms: Sequence[tuple[float, RowScores]], value: float, most: float) -> tuple[float | None, float | None]:
        rows = np.asarray(sum(weight * one.rows for weight, one in terms))
        return _paired(value, rows, 1.0 if self.is_share else 0.0, most)


@dataclass(frozen=True, kw_only=True, eq=False)
class Resampled(Paired):
    """A metric of all rows together, whose intervals come of rows drawn anew. A task derives a class that holds its pieces by row."""

    @abstractmethod
    def values(self, weights: np.ndarray) -> np.ndarray:
        """The metric where each row counts as often as it was drawn.

        Args:
            weights: float64 (draws, rows), whole numbers; a weight of 2 is a row that stands there twice.

        Returns:
            (draws,); NaN for a draw that has no value (no object in it), which is left out.
        """

    def value(self) -> float:
        return float(self.values(np.ones((1, self.count())))[0])

    def interval(self) -> tuple[float | None, float | None]:
        return self.interval_of([(1.0, self)], self.value(), np.inf)

    def interval_of(self, terms: Sequence[tuple[float, Resampled]], value: float, most: float) -> tuple[float | None, float | None]:
        drawn = np.asarray(sum(weight * one.drawn for weight, one in terms))
        drawn = drawn[np.isfinite(drawn)]
        if self.count() < 2 or not len(drawn):
            return None, None
        low, high = np.quantile(drawn, [0.025, 0.975])
        return min(float(low), value), max(float(high), value)

    @functools.cached_property
    def drawn(self) -> np.ndarray:
        """The metric of every draw, (DRAWS,): the same rows for whoever has as many, so that differences are paired."""
        rng, rows = np.random.default_rng(SEED), self.count()
        at_once = int(np.clip(DRAWN_AT_ONCE // max(rows, 1), 1, DRAWS))
        parts = []
        for start in range(0, DRAWS, at_once):
            draws = min(at_once, DRAWS - start)
            weights = [np.bincount(rng.integers(0, rows, rows), minlength=rows) for _ in range(draws)]
            parts.append(self.values(np.array(weights, np.float64)))
        return np.concatenate(parts)


@dataclass(frozen=True, kw_only=True, eq=False)
class SignalToNoise(Statistics):
    """Signal to error in dB: how near two answers are, where there is no truth and so no accuracy to lose."""

    of: str
    reference: np.ndarray
    other: np.ndarray

    def score(self) -> Score:
        return Score("sqnr_db", sqnr_db(self.reference, self.other), None, None, len(self.reference), "higher", "dB")

    def drop(self, after: Statistics) -> Score:
        raise MeasureError(
            f"output '{self.of}' has no accuracy to lose.",
            why="there is no truth that it could be held against.",
            fix="compare its values as SQNR (the parity table), or give it a task with labels.",
        )

    def gain(self, weight: float, others: Sequence[tuple[float, Statistics]] = ()) -> Score:
        raise MeasureError(f"output '{self.of}' has no accuracy to compare.", fix="give it a task with labels.")

    def goodness(self) -> float:
        return 0.0


def sqnr_db(reference: np.ndarray, other: np.ndarray) -> float:
    """10 log10 of signal power over the power of the difference; 200 where they are equal to the last bit."""
    reference = reference.astype(np.float64)
    noise = float(np.square(reference - other).sum())
    signal = float(np.square(reference).sum())
    return 200.0 if noise == 0 else -200.0 if signal == 0 else float(np.clip(10 * np.log10(signal / noise), -200, 200))


def mean_of_steps(values: np.ndarray) -> np.ndarray:
    """(rows, ...) -> float64 (rows,): the steps of a row are not independent of each other."""
    means: np.ndarray = values.reshape(len(values), -1).astype(np.float64).mean(axis=1)
    return means


def confusion_matrix(answered: np.ndarray, truth: np.ndarray, labels: int) -> np.ndarray:
    """int64 (labels, labels) of label numbers, rows are the truth, columns what was answered."""
    return np.bincount(truth.reshape(-1) * labels + answered.reshape(-1), minlength=labels * labels).reshape(labels, labels)


def hits(answered: np.ndarray, truth: np.ndarray, labels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each label how often it was answered rightly, was answered, and was there."""
    matrix = confusion_matrix(answered, truth, labels)
    return matrix.diagonal(), matrix.sum(axis=0), matrix.sum(axis=1)


def precision_recall_f1(right: np.ndarray, answered: np.ndarray, there: np.ndarray) -> dict[str, float]:
    """Means over labels; what would divide by nothing counts 0."""
    pairs = {"precision": (right, answered), "recall": (right, there), "f1": (2 * right, answered + there)}
    return {name: float((over / np.maximum(under, 1)).mean()) for name, (over, under) in pairs.items()}


def mean_of_known(values: Sequence[float]) -> float:
    """The mean of those that are numbers; NaN where none is."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")


def area_under_roc(scores: np.ndarray, positive: np.ndarray) -> float:
    """The chance that a positive row scores above a negative one, a tie counting half; NaN where a kind has no row.

    Source: the rank sum of Mann & Whitney (1947).
    """
    order = np.argsort(scores, kind="stable")
    _, first, count = np.unique(scores[order], return_index=True, return_counts=True)
    ranks = np.empty(len(scores))
    ranks[order] = np.repeat(first + (count + 1) / 2, count)
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return float("nan")
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """The mean of the precision over the positive rows, found in the order of their scores, those that tie at once; NaN where none is."""
    if not positive.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(positive[order])
    last = np.flatnonzero(np.diff(scores[order], append=np.nan) != 0)
    steps = np.diff(found[last], prepend=0)
    return float((steps * found[last] / (last + 1)).sum() / found[-1])


def confusions(
    outputs: Mapping[str, Output], truth: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]
) -> dict[str, Confusion]:
    """Of a report: for each labelled output that was answered and has one, its matrices."""
    confusions: dict[str, Confusion] = {}
    for name, output in outputs.items():
        if not output.labels or name not in truth:
            continue
        was, now = (_matrix(output, answers, truth[name]) for answers in (before, after))
        if now is not None:
            confusions[name] = Confusion(list(tasks.of(output).confused), now, was)
    return confusions


def _matrix(output: Output, answers: Mapping[str, np.ndarray], truth: np.ndarray) -> list[list[int]] | None:
    """Counts as plain lists; None where the output was not answered, or its task has no such matrix."""
    task = tasks.of(output)
    if any(read not in answers for read in task.reads):
        return None
    matrix = task.confusion(answers, truth)
    return None if matrix is None else matrix.tolist()


def _wilson(ratio: float, n: int) -> tuple[float, float]:
    """Wilson score interval."""
    centre = (ratio + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * (ratio * (1 - ratio) / n + Z * Z / (4 * n * n)) ** 0.5
    return max(0.0, min(centre - half, ratio)), min(1.0, max(centre + half, ratio))


def _paired(mean: float, rows: np.ndarray, pseudo: float, bound: float) -> tuple[float | None, float | None]:
    """Interval of a mean of paired differences; ``pseudo`` rows of +1/2 and -1/2 weight keep it from closing to a point."""
    n = len(rows)
    if n < 2 and not pseudo:
        return None, None
    total, effective = float(rows.sum()), n + 2 * pseudo
    variance = max(0.0, float(np.square(rows).sum()) + pseudo - total * total / effective)
    half = Z * variance**0.5 / effective
    centre = total / effective if pseudo else mean
    return max(-bound, min(centre - half, mean)), min(bound, max(centre + half, mean))
