"""The search itself: choose, run, tell, until enough was tried; the best again with more seeds; the best of these side by side."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from edgemm.contracts.interval import Interval
from edgemm.contracts.recipe import Recipe
from edgemm.contracts.search_parts import FAILED, RULED_OUT, OnFront, OutputLoss, Tried
from edgemm.contracts.search_space import Fidelity
from edgemm.errors import MeasureError
from edgemm.pipeline.searching import space
from edgemm.pipeline.searching.goal import Goal
from edgemm.pipeline.searching.trials import Trials, Wanted
from edgemm.pipeline.searching.wording import line

if TYPE_CHECKING:
    from edgemm.pipeline.searching.study import Study

MOST_ON_FRONT = 5  # models that are trained again with every seed

ENOUGH = 10  # trials after which it is worth saying that none keeps the budgets


@dataclass
class Search:
    """One search.

    Attributes:
        recipe: With its budgets and what it searches.
        starts: Recipes that are tried as they are, before all others.
        seed: Of the trials and their trainings.
        log: Called with all lines of the log, whenever something was tried.
    """

    recipe: Recipe
    starts: Mapping[str, Recipe]
    goal: Goal
    study: Study
    trials: Trials
    seed: int
    log: Callable[[Sequence[str]], None]
    as_they_are: list[Tried] = field(default_factory=list)
    further: list[Tried] = field(default_factory=list)

    def run(self, *, until_s: float = math.inf) -> list[Tried]:
        """Everything that was tried, in the order in which it was.

        Args:
            until_s: ``time.monotonic`` after which no batch is begun.

        Raises:
            MeasureError: Nothing could be tried at all.
        """
        self._try_starts()
        warned = False
        while time.monotonic() < until_s and (batch := self.study.next_batch()):
            self._try(batch)
            so_far = self.everything()
            if not warned and len(so_far) >= ENOUGH and not any(map(self.goal.is_legal, so_far)):
                warned = True
                self.trials.progress.note(f"so far nothing keeps the budgets: {self.goal.blocked(so_far)}")
        self._halve()
        everything = self.everything()
        if everything and all(tried.state == FAILED for tried in everything):
            raise MeasureError(
                "every trial failed.", why=everything[0].why, fix="see study.log; compress with one of the recipes shows more."
            )
        return everything

    def everything(self) -> list[Tried]:
        """What was tried so far."""
        return [*self.as_they_are, *self.study.results(), *self.further]

    def counting(self) -> list[Tried]:
        """Of everything what counts: with the fidelity that counts, where there are several, and what was ruled out with any."""
        counts = (None, self._fidelity.values[-1] if self._fidelity else None)
        return [tried for tried in self.everything() if tried.fidelity in counts or tried.state == RULED_OUT]

    def front(self) -> list[OnFront]:
        """The best trials, each trained with every seed, best first: by the mean of its trainings on val."""
        best = self.goal.front(self.counting())[:MOST_ON_FRONT]
        seeds = [self.seed + number for number in range(space.search_of(self.recipe).seeds)]
        wanted = [Wanted(tried.name, self._recipe_of(tried), tried.options, tried.fidelity, seed) for tried in best for seed in seeds]
        again = self.trials.run(wanted, f"training {len(best)} again", sift=False) if wanted else []
        trained = {
            tried.name: [
                replace(other, costs={**tried.costs, **other.costs}) for other in again if other.name == tried.name and other.losses
            ]
            for tried in best
        }
        return self.ranked([self._on_front(trained[tried.name]) for tried in best if trained[tried.name]])

    def ranked(self, front: Sequence[OnFront]) -> list[OnFront]:
        """Best first: those that keep every budget, then by the mean over their trainings."""
        return sorted(front, key=lambda one: (len(one.missed), self.goal.values(self._mean(one))))

    def measured(self, one: OnFront, costs: Mapping[str, float]) -> OnFront:
        """What is on the front with what it costs side by side with the others."""
        whole = {**one.costs, **costs}
        judged = replace(self._mean(one), costs=whole)
        return replace(one, costs=whole, missed=tuple(self.goal.missed(judged)))

    def _try_starts(self) -> None:
        wanted = [Wanted(name, recipe, seed=self.seed) for name, recipe in self.starts.items()]
        self.as_they_are = self.trials.run(wanted, "recipes as they are") if wanted else []
        self._tell(self.as_they_are)

    def _try(self, batch: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
        fidelity = self._fidelity.values[0] if self._fidelity else None
        wanted = [
            Wanted(f"trial {number}", space.with_values(self.recipe, values, fidelity), dict(values), fidelity, self.seed)
            for number, values in batch
        ]
        last = batch[-1][0]
        results = self.trials.run(wanted, f"trials {batch[0][0]} to {last} of {self.study.trials}")
        self.study.tell({number: tried for (number, _), tried in zip(batch, results, strict=True)})
        self._tell(results)

    def _halve(self) -> None:
        """The best with the next value of the option that costs time, and of these the best with the next."""
        fidelity, going = self._fidelity, self.study.results()
        if fidelity is None:
            return
        for value in fidelity.values[1:]:
            ranked = self.goal.ranked(going)
            best = distinct(ranked)[: math.ceil(fidelity.keep * len(ranked))]
            wanted = [
                Wanted(tried.name, space.with_values(self.recipe, tried.options, value), tried.options, value, self.seed) for tried in best
            ]
            going = self.trials.run(wanted, f"{len(wanted)} with {fidelity.parameter.name} {value}") if wanted else []
            self.further += going
            self._tell(going)

    def _on_front(self, trained: Sequence[Tried]) -> OnFront:
        points = [other.points for other in trained if other.points is not None]
        best = min(trained, key=self.goal.values)
        spread = Interval(sum(points) / len(points), min(points), max(points))
        return self.measured(OnFront(best, spread, best.costs, [other.seed for other in trained], (), _mean_losses(trained)), {})

    def _mean(self, one: OnFront) -> Tried:
        """The model on the front as its trainings are on average."""
        return replace(one.best, losses=one.losses, costs=one.costs)

    def _recipe_of(self, tried: Tried) -> Recipe:
        return self.starts[tried.name] if tried.name in self.starts else space.with_values(self.recipe, tried.options, tried.fidelity)

    @property
    def _fidelity(self) -> Fidelity | None:
        return space.search_of(self.recipe).fidelity

    def _tell(self, tried: Sequence[Tried]) -> None:
        for one in tried:
            self.trials.progress.note(line(one, self.goal))
        self.log([line(one, self.goal) for one in self.everything()])


def distinct(trials: Sequence[Tried]) -> list[Tried]:
    """Trials without those that are an earlier one again: a sampler may choose the same values twice."""
    return [tried for place, tried in enumerate(trials) if all(tried.recipe != other.recipe for other in trials[:place])]


def _mean_losses(trained: Sequence[Tried]) -> dict[str, OutputLoss]:
    """Output -> mean loss over several trainings; low and high are the least and the most of them."""
    means = {}
    for name, loss in trained[0].losses.items():
        values = [other.losses[name].value for other in trained]
        means[name] = replace(loss, value=sum(values) / len(values), low=min(values), high=max(values))
    return means
