"""The threshold of a gate, and the proof that it keeps its budget: fixed-sequence testing of exact p-values.

What is promised: with 95% confidence over the choice of val, no guarded head loses more than ``loss_points`` on data like val where the
branch is skipped from the threshold on. How: for each threshold stands the hypothesis "here more is lost". The thresholds, and their
order from skipping least to skipping most, are fixed before val is looked at (they are quantiles of what *other* rows answered, as is the
choice of the criterion). They are tested in that order, each at the whole 5%, and the first that is not rejected ends it; the last that
was rejected is taken. The first true hypothesis of such an order must be rejected wrongly for any to be, so that the chance of a wrong
choice is 5% and not 5% a threshold: searching is paid for by the order. A threshold must be shown for every head, and for every label of
a head that has rows enough by themselves: where one of several claims fails, their joint claim does, which needs no correction.

Of several gates each is tested alone at its part of the 5%. Those behind the first count losses and no gains, so that what all of them
lose together is at most the sum of their budgets, in whatever combination they shut.

The p-value is exact where a head is right or wrong by row (``data.exact``); rows that are right in part count against the gate as whole
ones. Of another metric (a mean error, F1, mAP) the report's paired interval is used, which holds for many rows: such a bound is called
approximate.

Source: Angelopoulos, Bates, Candes, Jordan, Lei, "Learn then test" (arXiv 2110.01052, Annals of Applied Statistics 2025), section 2.3 for
the fixed sequence; Bauer (1991) Statistics in Medicine 10 for joint claims; Berger & Boos (1994) for the paired p-value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgemm.contracts import task as tasks
from edgemm.contracts.answers import Answers
from edgemm.contracts.card import Card
from edgemm.contracts.gate import APPROXIMATE, CRITERIA, EXACT, GateLoss
from edgemm.contracts.task import Statistics, Task
from edgemm.data import exact
from edgemm.data.scoring import RowScores
from edgemm.data.sureness import Sureness

ERROR = 0.05
"""Of a wrong promise, all gates together."""
ENOUGH = 4
"""Times the rows that show the budget without a loss: a label that has so many may lose half of it on val and is still held by itself."""
LEVELS = 200
"""Thresholds: quantiles of what rows beside val answer; half a percent of skipped calls lies between two."""


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

    @property
    def worst(self) -> GateLoss:
        """The head that loses most, by its bound; a label of it has its own rows and is not meant."""
        return max((one for one in self.lost if one.label is None), key=lambda one: one.bound)


@dataclass(frozen=True)
class Order:
    """What is fixed before val is looked at: how sureness is told, and the thresholds, from the strictest down."""

    criterion: str
    thresholds: Sequence[float]


def choose(card: Card, order: Order, val: Sides, loss_points: float, *, error: float = ERROR, counts_gains: bool = True) -> Chosen:
    """The lowest threshold that is proved to keep the budget.

    Args:
        order: As ``fix`` made it of other rows.
        val: Rows that the proof rests on.
        error: This gate's part of the error.
        counts_gains: Whether rows that only the answer without the branch got right make up for others.
    """
    sureness = Sureness(card)
    criterion, grid = order.criterion, order.thresholds
    sure = sureness.of(criterion, val.without)
    heads = [_Head(card, name, val, counts_gains=counts_gains) for name in tasks.scored_outputs(card) if _is_known(card, name, val)]
    last: float | None = None
    for threshold in grid:
        if not all(head.keeps(sure >= threshold, loss_points, error) for head in heads):
            break
        last = threshold
    skipped = sure >= (grid[0] if last is None else last)
    lost = [one for head in heads for one in head.lost(skipped, loss_points, error)]
    apart = sureness.disagree(val.whole, val.without)[skipped]
    few = {key: count for head in heads for key, count in head.too_few(loss_points, error).items()}
    bound = EXACT if all(head.is_exact for head in heads) else APPROXIMATE
    return Chosen(criterion, last, float(skipped.mean()) if last is not None else 0.0, lost, (int(apart.sum()), len(apart)), few, bound)


def rows_needed(loss_points: float, error: float = ERROR) -> int:
    """Rows of val without which no threshold could be shown to lose at most so much."""
    return exact.rows_needed(loss_points / 100, error)


def rows_of_a_label(loss_points: float, error: float = ERROR) -> int:
    """Rows from which on a label is held by itself."""
    return ENOUGH * rows_needed(loss_points, error)


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
    heads = [_Head(card, name, beside) for name in tasks.scored_outputs(card) if _is_known(card, name, beside)]
    most = 0.0
    for threshold in grid:
        skipped = sure >= threshold
        if all(head.points(skipped) <= loss_points for head in heads):
            most = max(most, float(skipped.mean()))
    return most


class _Head:
    """One guarded head on the rows of one split."""

    def __init__(self, card: Card, name: str, sides: Sides, *, counts_gains: bool = True) -> None:
        self._name, self._sides, self._counts_gains = name, sides, counts_gains
        self._task: Task = tasks.of(card.outputs[name])
        self._truth = sides.truth.get(name)
        self._whole: Statistics = self._task.measure(sides.whole, self._truth)
        self._known: dict[tuple[int, int, int, float], float] = {}
        self._labels: Mapping[str, np.ndarray] = self._rows_by_label()

    @property
    def is_exact(self) -> bool:
        return isinstance(self._whole, RowScores) and self._whole.is_share

    def points(self, skipped: np.ndarray) -> float:
        """What is lost, in points, as these rows count."""
        drop = self._whole.drop(self._task.measure(self._sides.gated(skipped), self._truth))
        return drop.value / (drop.per_point or 1.0)

    def keeps(self, skipped: np.ndarray, loss_points: float, error: float) -> bool:
        """Whether the loss is shown to be at most the budget, of all rows and of every label that has enough."""
        if not self.is_exact:
            return self._approximate(skipped).bound <= loss_points
        rows = self._by_row(skipped)
        counted = [rows, *(rows[own] for own in self._labels.values() if own.sum() >= rows_of_a_label(loss_points, error))]
        return all(self._chance(one, loss_points) <= error for one in counted)

    def lost(self, skipped: np.ndarray, loss_points: float, error: float) -> list[GateLoss]:
        """What is lost, with its bound, of all rows and of every label that is held by itself."""
        if not self.is_exact:
            return [self._approximate(skipped)]
        rows = self._by_row(skipped)
        held = {label: rows[own] for label, own in self._labels.items() if own.sum() >= rows_of_a_label(loss_points, error)}
        parts: list[tuple[str | None, np.ndarray]] = [(None, rows), *held.items()]
        return [GateLoss(self._name, 100 * float(one.mean()), self._bound(one, error), len(one), label) for label, one in parts]

    def too_few(self, loss_points: float, error: float) -> dict[str, int]:
        """Labels that cannot be held by themselves, and their rows."""
        needed = rows_of_a_label(loss_points, error)
        return (
            {f"{self._name}: {label}": int(own.sum()) for label, own in self._labels.items() if own.sum() < needed} if self.is_exact else {}
        )

    def _by_row(self, skipped: np.ndarray) -> np.ndarray:
        """float64 (rows,): from 1, right before and wrong now, to -1."""
        assert isinstance(self._whole, RowScores)
        now = self._task.measure(self._sides.gated(skipped), self._truth)
        assert isinstance(now, RowScores)
        return self._whole.metric.sign * (self._whole.rows - now.rows)  # type: ignore[no-any-return]

    def _counts(self, rows: np.ndarray) -> tuple[int, int]:
        """Rows that lose, be it in part, and rows that gain all; the truth is never worse than these."""
        return int((rows > 0).sum()), int((rows <= -1).sum()) if self._counts_gains else 0

    def _chance(self, rows: np.ndarray, loss_points: float) -> float:
        losses, gains = self._counts(rows)
        key = (losses, gains, len(rows), loss_points)
        if key not in self._known:
            limit = loss_points / 100
            paired = (
                exact.chance_of_paired(losses, gains, len(rows), limit) if self._counts_gains else exact.chance_of(losses, len(rows), limit)
            )
            self._known[key] = paired
        return self._known[key]

    def _bound(self, rows: np.ndarray, error: float) -> float:
        losses, gains = self._counts(rows)
        return 100 * exact.upper_paired(losses, gains, len(rows), error, counts_gains=self._counts_gains)

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
