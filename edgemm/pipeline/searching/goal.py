"""What a search is for: what it wants little of, which budgets it keeps, and which of two trials is the better one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgemm.contracts.card import Card
from edgemm.contracts.recipe import BUDGETS, PER_OUTPUT, Recipe
from edgemm.contracts.report import ROUNDING
from edgemm.contracts.search_parts import ANSWERED, FAILED, Tried
from edgemm.contracts.search_space import ACCURACY, MEAN
from edgemm.contracts.task import scored_outputs
from edgemm.errors import RecipeError

DROP, SIZE, LATENCY = "accuracy_drop_points", "size_mib", "latency_p50_ms"
TIMED = tuple(name for name in BUDGETS if name not in (*PER_OUTPUT, SIZE))
"""What is known of a graph only when it has run on the target."""
LEAST_LIMIT = 0.1  # a limit of 0 counts as so much where excesses of several budgets are set against each other


@dataclass(frozen=True)
class Limit:
    """One budget, of one output where it is about accuracy.

    Attributes:
        name: As a recipe has it; of an output's accuracy ``accuracy_drop_points.event``.
        in_points: Whether ``limit`` counts points, which a regression's unit is not.
    """

    name: str
    limit: float
    output: str | None = None
    in_points: bool = True

    def value(self, tried: Tried) -> float | None:
        """What the trial shows of it; None where nobody measured."""
        if self.output is None:
            return tried.costs.get(self.name)
        loss = tried.losses.get(self.output)
        return None if loss is None else loss.points if self.in_points else loss.value

    def excess(self, tried: Tried) -> float | None:
        """By which share of the limit the trial passes it; at most 0 where it is kept, None where nobody measured."""
        value = self.value(tried)
        if value is None:
            return None
        over = value - self.limit
        return min(over, 0.0) if over <= ROUNDING else over / max(self.limit, LEAST_LIMIT)


@dataclass(frozen=True)
class Goal:
    """What is wanted.

    Attributes:
        objective: ``accuracy`` -> output or ``mean``, and names of costs of which the least is wanted.
        limits: The budgets.
        outputs: Those with a metric.
    """

    objective: Mapping[str, Any]
    limits: Sequence[Limit]
    outputs: Sequence[str]

    @property
    def timed(self) -> bool:
        """Whether a trial cannot be judged before it has run on the target."""
        return any(name in TIMED for name in (*self.objective, *(limit.name for limit in self.limits)))

    @property
    def count(self) -> int:
        """How many numbers are wanted small."""
        return len(self.objective)

    def values(self, tried: Tried) -> list[float]:
        """What is wanted small, of an answered trial."""
        return [self._value(name, wanted, tried) for name, wanted in self.objective.items()]

    def excesses(self, tried: Tried) -> dict[str, float]:
        """Budget -> by which share of it the trial passes it; what is not known yet is left out."""
        return {limit.name: over for limit in self.limits if (over := limit.excess(tried)) is not None}

    def is_out(self, tried: Tried) -> bool:
        """Whether what is known of it breaks a budget."""
        return any(over > 0 for over in self.excesses(tried).values())

    def is_legal(self, tried: Tried) -> bool:
        """Whether it was answered and keeps every budget."""
        return tried.state == ANSWERED and not self.is_out(tried)

    def missed(self, tried: Tried) -> list[str]:
        """The budgets that it misses, in words, the worst first."""
        over = {limit: excess for limit in self.limits if (excess := limit.excess(tried)) is not None and excess > 0}
        return [f"{limit.name} {limit.value(tried):.3g}, limit {limit.limit:g}" for limit in sorted(over, key=lambda limit: -over[limit])]

    def front(self, trials: Sequence[Tried]) -> list[Tried]:
        """Legal trials that no other beats in accuracy, size and latency at once, best first; of equals the earlier."""
        legal = [tried for tried in trials if self.is_legal(tried)]
        points = [self._figures(tried) for tried in legal]
        kept = [
            tried
            for place, tried in enumerate(legal)
            if not any(_beats(other, points[place], earlier=number < place) for number, other in enumerate(points))
        ]
        return self.ranked(kept)

    def ranked(self, trials: Sequence[Tried]) -> list[Tried]:
        """Answered trials, best first: legal ones by the first objective, then the others by what they miss."""
        answered = [tried for tried in trials if tried.state == ANSWERED]
        return sorted(answered, key=lambda tried: (self._passed(tried), *self.values(tried), tried.costs.get(SIZE, 0.0)))

    def nearest(self, trials: Sequence[Tried]) -> Tried | None:
        """The trial that passes its budgets by least; of ruled out ones what is known counts."""
        known = [tried for tried in trials if tried.state != FAILED]
        return min(known, key=lambda tried: (self._passed(tried), tried.state != ANSWERED), default=None)

    def blocked(self, trials: Sequence[Tried]) -> str:
        """What stands in the way where nothing is legal, in words: the nearest trial, its budget, and what each budget came to at best."""
        nearest = self.nearest(trials)
        if nearest is None:
            return "every trial failed."
        best = [words for limit in self.limits if (words := self._best(limit, trials))]
        return f"the nearest is {nearest.name}: {'; '.join(self.missed(nearest))}. At best, each alone: {', '.join(best)}."

    def words(self) -> str:
        """The objective as a sentence has it."""
        return " and ".join(
            ("the mean accuracy" if wanted == MEAN else f"the accuracy of '{wanted}'") if name == ACCURACY else f"the least {name}"
            for name, wanted in self.objective.items()
        )

    def _value(self, name: str, wanted: Any, tried: Tried) -> float:
        if name != ACCURACY:
            return tried.costs[name]
        if wanted != MEAN:
            return tried.losses[wanted].points
        assert tried.points is not None  # it was answered
        return tried.points

    def _figures(self, tried: Tried) -> tuple[float, ...]:
        return (*self.values(tried), tried.points or 0.0, *(tried.costs.get(name, 0.0) for name in (SIZE, LATENCY)))

    def _passed(self, tried: Tried) -> float:
        return sum(over for over in self.excesses(tried).values() if over > 0)

    def _best(self, limit: Limit, trials: Sequence[Tried]) -> str:
        values = [value for tried in trials if (value := limit.value(tried)) is not None]
        return f"{limit.name} {min(values):.3g} (limit {limit.limit:g})" if values else ""


def goal_of(recipe: Recipe, card: Card) -> Goal:
    """The goal of a recipe with its budgets.

    Raises:
        RecipeError: Accuracy is wanted of a model of which no output has a metric, or of an output that has none.
    """
    assert recipe.search is not None
    outputs = list(scored_outputs(card))
    limits = [limit for name, value in recipe.budgets.items() for limit in _limits(name, value, outputs)]
    usual = {ACCURACY: MEAN} if limits else {ACCURACY: MEAN, LATENCY: "least", SIZE: "least"}
    objective = dict(recipe.search.objective) or usual
    wanted = objective.get(ACCURACY)
    if wanted is not None and (not outputs or wanted not in (MEAN, *outputs)):
        raise RecipeError(
            "the search wants accuracy, and this model has none to tell.",
            why=f"'{wanted}' has no metric." if outputs else "none of its outputs has a metric.",
            fix="write objective: {size_mib: least}, or give the output a task that has one.",
        )
    return Goal(objective, limits, outputs)


def _limits(name: str, value: Any, outputs: Sequence[str]) -> Iterator[Limit]:
    if name not in PER_OUTPUT:
        yield Limit(name, float(value))
    elif isinstance(value, Mapping):
        yield from (Limit(f"{name}.{output}", float(value[output]), output, in_points=False) for output in outputs if output in value)
    else:
        yield from (Limit(name if len(outputs) == 1 else f"{name}.{output}", float(value), output) for output in outputs)


def _beats(one: Sequence[float], other: Sequence[float], *, earlier: bool) -> bool:
    """Whether the first is nowhere worse than the second, and somewhere better, or the same and earlier."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and (earlier or any(a < b for a, b in zip(one, other, strict=True)))
