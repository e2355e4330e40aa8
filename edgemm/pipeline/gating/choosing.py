"""The threshold of a gate, and the proof that it keeps its budget: fixed-sequence testing of exact p-values.

What is promised: with 95% confidence over the choice of val, no guarded head loses more than ``loss_points`` on data like val where the
branch is skipped from the threshold on; and with 95% confidence none does on the next set of ``next_rows`` rows by itself, be it a test
split or a week (``data.next_rows``). How: for each threshold stands the hypothesis "here more is lost". The thresholds, and their
order from skipping least to skipping most, are fixed before val is looked at (they are quantiles of what *other* rows answered, as is the
choice of the criterion). They are tested in that order, each at the whole 5%, and the first that is not rejected ends it; the last that
was rejected is taken. The first true hypothesis of such an order must be rejected wrongly for any to be, so that the chance of a wrong
choice is 5% and not 5% a threshold: searching is paid for by the order. A threshold must be shown for every head, and for every label of
a head that has rows enough by themselves: where one of several claims fails, their joint claim does, which needs no correction.

Of several gates each is tested alone at its part of the 5%. Those behind the first count losses and no gains, so that what all of them
lose together is at most the sum of their budgets, in whatever combination they shut.

The claim about the next rows is held in the same order; why the order pays for its search too is told there.

The p-value is exact where a head is right or wrong by row (``data.exact``); rows that are right in part count against the gate as whole
ones. Of another metric (a mean error, F1, mAP) the report's paired interval is used, which holds for many rows: such a bound is called
approximate. For the next rows it is as much wider as these are unsure themselves.

Source: Angelopoulos, Bates, Candes, Jordan, Lei, "Learn then test" (arXiv 2110.01052, Annals of Applied Statistics 2025), section 2.3 for
the fixed sequence; Bauer (1991) Statistics in Medicine 10 for joint claims; Berger & Boos (1994) for the paired p-value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgemm.contracts import task as tasks
from edgemm.contracts.answers import Answers
from edgemm.contracts.card import Card
from edgemm.contracts.gate import APPROXIMATE, CRITERIA, EXACT, GateLoss
from edgemm.contracts.task import Statistics, Task
from edgemm.data import exact, next_rows
from edgemm.data.scoring import RowScores
from edgemm.data.sureness import Sureness

ERROR = 0.05
"""Of a wrong promise, all gates together."""
ENOUGH = 4
"""Times the rows that show the budget without a loss: a label that has so many may lose half of it on val and is still held by itself."""
LEVELS = 200
"""Thresholds: quantiles of what rows beside val answer; half a percent of skipped calls lies between two."""


@dataclass(frozen=True)
class Promise:
    """What a threshold has to be shown to keep.

    Attributes:
        loss_points: Most that a head may lose.
        next_rows: The next set of so many rows keeps it by itself too; None = as many as val has, 0 = only all data together.
        error: This gate's part of the chance that it is wrong.
        counts_gains: Rows that only the answer without the branch got right make up for others.
    """

    loss_points: float
    next_rows: int | None = 0
    error: float = ERROR
    counts_gains: bool = True

    def coming(self, rows: int) -> int:
        """``next_rows`` as a number, where val has so many."""
        return rows if self.next_rows is None else self.next_rows


@dataclass(frozen=True)
class Sides:
    """The same rows answered with all inputs, and without those that a gate may skip.

    Attributes:
        truth: Output -> what is true; beside both.
    """

    whole: Mapping[str, np.ndarray]
    without: Mapping[str, np.ndarray]
    truth: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, whole: Answers, without: Answers) -> Sides:
        """Of answers, the truth beside the first."""
        return cls(whole.predictions, without.predictions, whole.truth)

    def rows(self, chosen: np.ndarray) -> Sides:
        """These rows alone."""
        return Sides(*({name: array[chosen] for name, array in side.items()} for side in (self.whole, self.without, self.truth)))

    def gated(self, skipped: np.ndarray) -> dict[str, np.ndarray]:
        """What the gate answers where ``skipped``, bool (rows,), says that the branch does not run."""
        mixed = {}
        for name, whole in self.whole.items():
            place = skipped.reshape(-1, *[1] * (whole.ndim - 1))
            mixed[name] = np.where(place, self.without[name], whole)
        return mixed

    def __len__(self) -> int:
        return len(next(iter(self.whole.values())))


@dataclass(frozen=True)
class Chosen:
    """What was found.

    Attributes:
        threshold: None where no threshold keeps the budget: the branch runs always.
        skipped: Share of the rows on which it does not run.
        skipped_for_all: The share that would be skipped if the next rows had not to keep the budget by themselves.
        lost: Of each head, and of each label that was held by itself; at the threshold, or where there is none at the first tried.
        disagreed: Rows that were skipped and decided otherwise than with all inputs, and all skipped ones.
        too_few: Labels that have too few rows to be held by themselves: ``output: label`` -> their rows.
        bound: ``exact`` or ``approximate``.
    """

    criterion: str
    threshold: float | None
    skipped: float
    lost: Sequence[GateLoss]
    disagreed: tuple[int, int]
    too_few: Mapping[str, int] = field(default_factory=dict)
    bound: str = EXACT
    skipped_for_all: float = 0.0

    @property
    def worst(self) -> GateLoss:
        """The head that loses most, by its bound; a label of it has its own rows and is not meant."""
        return max((one for one in self.lost if one.label is None), key=lambda one: one.bound)


@dataclass(frozen=True)
class Order:
    """What is fixed before val is looked at: how sureness is told, and the thresholds, from the strictest down."""

    criterion: str
    thresholds: Sequence[float]


def choose(card: Card, order: Order, val: Sides, promise: Promise) -> Chosen:
    """The lowest threshold that is proved to keep the promise.

    Args:
        order: As ``fix`` made it of other rows.
        val: Rows that the proof rests on.
    """
    sureness = Sureness(card)
    criterion, grid = order.criterion, order.thresholds
    sure = sureness.of(criterion, val.without)
    heads = [_Head(card, name, val, promise) for name in tasks.scored_outputs(card) if _is_known(card, name, val)]
    last: float | None = None
    for_all: float | None = None
    for threshold in grid:
        if not all(head.keeps_for_all(sure >= threshold) for head in heads):
            break
        if last == for_all and all(head.keeps_for_next(sure >= threshold) for head in heads):
            last = threshold
        for_all = threshold
    skipped = sure >= (grid[0] if last is None else last)
    lost = [one for head in heads for one in head.lost(skipped)]
    apart = sureness.disagree(val.whole, val.without)[skipped]
    few = {key: count for head in heads for key, count in head.too_few().items()}
    bound = EXACT if all(head.is_exact for head in heads) else APPROXIMATE
    shares = [0.0 if one is None else float((sure >= one).mean()) for one in (last, for_all)]
    return Chosen(criterion, last, shares[0], lost, (int(apart.sum()), len(apart)), few, bound, shares[1])


def rows_needed(promise: Promise) -> int:
    """Rows of val without which no threshold could be shown to keep it."""
    if promise.next_rows == 0:
        return rows_for_all(promise)
    return max(rows_for_all(promise), next_rows.rows_needed(promise.next_rows, promise.loss_points / 100, promise.error))


def rows_for_all(promise: Promise) -> int:
    """Rows of val without which none could be shown to keep it of all data like val."""
    return exact.rows_needed(promise.loss_points / 100, promise.error)


def least_points(rows: int, promise: Promise) -> float:
    """The budget that so many rows of val without a single loss would show, the rest of the promise as it is, to a hundredth of it."""
    low, high = promise.loss_points, 100.0
    while high - low > low / 100:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if rows_needed(replace(promise, loss_points=middle)) > rows else (low, middle)
    return high


def rows_of_a_label(promise: Promise) -> int:
    """Rows from which on a label is held by itself."""
    return ENOUGH * rows_for_all(promise)


def _is_known(card: Card, name: str, sides: Sides) -> bool:
    task = tasks.of(card.outputs[name])
    return (name in sides.truth or not task.has_truth) and set(task.reads) <= sides.whole.keys()


def fix(card: Card, beside: Sides, loss_points: float) -> Order:
    """The criterion that skips most within the budget on rows that the proof does not rest on, as they count, and their quantiles."""
    sureness, best = Sureness(card), list[tuple[float, str, np.ndarray]]()
    for criterion in CRITERIA:
        sure = sureness.of(criterion, beside.without)
        grid = np.unique(np.quantile(sure, np.linspace(0, 1, LEVELS + 1)))[::-1]
        skipped = _most_within(card, beside, sure, grid, loss_points)
        best.append((skipped, criterion, grid))
    _, criterion, grid = max(best, key=lambda entry: entry[0])
    return Order(criterion, [float(threshold) for threshold in grid])


def _most_within(card: Card, beside: Sides, sure: np.ndarray, grid: np.ndarray, loss_points: float) -> float:
    """The largest share of skipped rows that loses no more than the budget, as these rows count."""
    heads = [_Head(card, name, beside, Promise(loss_points)) for name in tasks.scored_outputs(card) if _is_known(card, name, beside)]
    most = 0.0
    for threshold in grid:
        skipped = sure >= threshold
        if all(head.points(skipped) <= loss_points for head in heads):
            most = max(most, float(skipped.mean()))
    return most


class _Head:
    """One guarded head on the rows of one split."""

    def __init__(self, card: Card, name: str, sides: Sides, promise: Promise) -> None:
        self._name, self._sides, self._promise = name, sides, promise
        self._task: Task = tasks.of(card.outputs[name])
        self._truth = sides.truth.get(name)
        self._whole: Statistics = self._task.measure(sides.whole, self._truth)
        self._known: dict[tuple[int, int, int], float] = {}
        self._labels: Mapping[str, np.ndarray] = self._rows_by_label()

    @property
    def is_exact(self) -> bool:
        return isinstance(self._whole, RowScores) and self._whole.is_share

    def points(self, skipped: np.ndarray) -> float:
        """What is lost, in points, as these rows count."""
        drop = self._whole.drop(self._task.measure(self._sides.gated(skipped), self._truth))
        return drop.value / (drop.per_point or 1.0)

    def keeps_for_all(self, skipped: np.ndarray) -> bool:
        """Whether the loss is shown to be at most the budget, of all rows and of every label that has enough."""
        if not self.is_exact:
            return self._approximate(skipped).bound <= self._promise.loss_points
        rows = self._by_row(skipped)
        counted = [rows, *(rows[own] for own in self._held().values())]
        return all(self._chance(one) <= self._promise.error for one in counted)

    def keeps_for_next(self, skipped: np.ndarray) -> bool:
        """Whether it is shown of the next rows by themselves, all labels together."""
        wanted, coming = self._promise, self._promise.coming(len(skipped))
        if not coming:
            return True
        if not self.is_exact:
            lost = self._approximate(skipped)
            return lost.points + (lost.bound - lost.points) * math.sqrt(1 + lost.rows / coming) <= wanted.loss_points
        losses, gains = self._counts(self._by_row(skipped))
        about = (len(skipped), coming, wanted.loss_points / 100)
        if wanted.counts_gains and next_rows.gains_help(*about, wanted.error):
            return next_rows.chance_of_paired(losses, gains, *about) <= wanted.error
        return next_rows.chance_of(losses, *about) <= wanted.error

    def lost(self, skipped: np.ndarray) -> list[GateLoss]:
        """What is lost, with its bound, of all rows and of every label that is held by itself."""
        if not self.is_exact:
            return [self._approximate(skipped)]
        rows = self._by_row(skipped)
        parts: list[tuple[str | None, np.ndarray]] = [(None, rows), *((label, rows[own]) for label, own in self._held().items())]
        return [GateLoss(self._name, 100 * float(one.mean()), self._bound(one), len(one), label) for label, one in parts]

    def too_few(self) -> dict[str, int]:
        """Labels that cannot be held by themselves, and their rows."""
        held = self._held()
        return {f"{self._name}: {label}": int(own.sum()) for label, own in self._labels.items() if label not in held and self.is_exact}

    def _held(self) -> dict[str, np.ndarray]:
        needed = rows_of_a_label(self._promise)
        return {label: own for label, own in self._labels.items() if own.sum() >= needed}

    def _by_row(self, skipped: np.ndarray) -> np.ndarray:
        """float64 (rows,): from 1, right before and wrong now, to -1."""
        assert isinstance(self._whole, RowScores)
        now = self._task.measure(self._sides.gated(skipped), self._truth)
        assert isinstance(now, RowScores)
        return self._whole.metric.sign * (self._whole.rows - now.rows)  # type: ignore[no-any-return]

    def _counts(self, rows: np.ndarray) -> tuple[int, int]:
        """Rows that lose, be it in part, and rows that gain all; the truth is never worse than these."""
        return int((rows > 0).sum()), int((rows <= -1).sum()) if self._promise.counts_gains else 0

    def _chance(self, rows: np.ndarray) -> float:
        losses, gains = self._counts(rows)
        key = (losses, gains, len(rows))
        if key not in self._known:
            limit = self._promise.loss_points / 100
            paired = self._promise.counts_gains
            chance = exact.chance_of_paired(losses, gains, len(rows), limit) if paired else exact.chance_of(losses, len(rows), limit)
            self._known[key] = chance
        return self._known[key]

    def _bound(self, rows: np.ndarray) -> float:
        losses, gains = self._counts(rows)
        return 100 * exact.upper_paired(losses, gains, len(rows), self._promise.error, counts_gains=self._promise.counts_gains)

    def _approximate(self, skipped: np.ndarray) -> GateLoss:
        drop = self._whole.drop(self._task.measure(self._sides.gated(skipped), self._truth))
        point = drop.per_point or 1.0
        bound = drop.high if drop.high is not None else float("inf")
        return GateLoss(self._name, drop.value / point, bound / point if skipped.any() else 0.0, drop.n)

    def _rows_by_label(self) -> dict[str, np.ndarray]:
        labels = getattr(self._task, "labels", None)
        if not self._task.is_one_label or not labels or self._truth is None:
            return {}
        return {label: self._truth == number for number, label in enumerate(labels) if (self._truth == number).any()}
