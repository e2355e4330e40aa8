"""Running trials: what a trial costs first, where that can rule it out, and only then what it answers."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edgemm.contracts.recipe import Recipe
from edgemm.contracts.search_parts import FAILED, RULED_OUT, Tried
from edgemm.errors import EdgemmError, MeasureError
from edgemm.pipeline.preparing import forbidden
from edgemm.pipeline.searching import trial
from edgemm.pipeline.searching.benches import is_gone
from edgemm.pipeline.searching.goal import SIZE, Goal
from edgemm.pipeline.searching.meters import Meter
from edgemm.pipeline.searching.runners import Outcome, Runner, Task
from edgemm.pipeline.searching.trial import Graph
from edgemm.progress import Progress

ROUGH = 1.1  # where training may change the size, a trial is ruled out by what it costs untrained only this far above a limit
MOST_CRASHES = 3
"""Trials whose process died, one after the other: then it is not the trial."""


@dataclass(frozen=True)
class Wanted:
    """A trial that is to be run."""

    name: str
    recipe: Recipe
    options: Mapping[str, Any] = field(default_factory=dict)
    fidelity: Any = None
    seed: int = 0


@dataclass
class Trials:
    """Runs trials.

    Attributes:
        runner: Who runs them.
        meter: Who measures what they came to; None = nobody has to.
        graphs: What the answered ones came to, by name and seed.
    """

    goal: Goal
    runner: Runner
    meter: Meter | None
    progress: Progress
    graphs: dict[tuple[str, int], Graph] = field(default_factory=dict)
    _crashes: int = 0
    _gone: int = 0

    def run(self, wanted: Sequence[Wanted], what: str, *, sift: bool = True) -> list[Tried]:
        """What came of these trials, in their order.

        Args:
            what: What they are, for the progress.
            sift: Whether to measure what they cost, and to rule out by it; False where that is known.

        Raises:
            MeasureError: The processes of several died, one after the other.
        """
        batch = _Batch(self, wanted, time.perf_counter())
        with self.progress.stage(what):
            if sift:
                batch.size()
                batch.time(exact=True)
            batch.answer()
            if sift:
                batch.time(exact=False)
        return batch.results()

    def outcomes(self, tasks: Sequence[Task], doing: str) -> list[Outcome]:
        """What the runner says of these tasks."""

        def done(count: int) -> None:
            self.progress.update(f"{doing}: {count} of {len(tasks)} done", count / len(tasks))

        return self.runner.run(tasks, done) if tasks else []

    def noted(self, outcome: Outcome) -> None:
        """Count processes that died in a row.

        Raises:
            MeasureError: They are too many.
        """
        self._crashes = self._crashes + 1 if outcome.crashed else 0
        if self._crashes >= MOST_CRASHES and outcome.error is not None:
            raise MeasureError(
                f"{MOST_CRASHES} trials in a row ended with their process.",
                why=outcome.error.why or outcome.error.what,
                fix="take fewer --workers or smaller batches if memory ran out; the same command goes on with the search.",
            )

    def measured(self, error: EdgemmError | None) -> None:
        """Count measurements in a row for which the device was gone, whatever its trials' processes did in between.

        Raises:
            MeasureError: They are too many.
        """
        self._gone = self._gone + 1 if is_gone(error) else 0
        if self._gone >= MOST_CRASHES and error is not None:
            raise MeasureError(
                f"the device that measures was gone for {MOST_CRASHES} trials in a row.",
                why=f"{error.what} {error.why}".strip(),
                fix="see to it that it answers; the same command goes on with the search.",
            )


@dataclass
class _Batch:
    """Trials on their way."""

    trials: Trials
    wanted: Sequence[Wanted]
    began_s: float
    costs: dict[int, dict[str, float]] = field(default_factory=dict)
    ended: dict[int, Tried] = field(default_factory=dict)
    sized: dict[int, Graph] = field(default_factory=dict)
    answered: dict[int, Graph] = field(default_factory=dict)
    timed: set[int] = field(default_factory=set)

    def size(self) -> None:
        """Find out what those cost that would have to be trained, and rule out what is too large."""
        goal = self.trials.goal
        if not goal.timed and all(limit.name != SIZE for limit in goal.limits):
            return
        places = [place for place, wanted in enumerate(self.wanted) if trial.trains(wanted.recipe)]
        tasks = [self._task("sized", place) for place in places]
        for place, outcome in zip(places, self.trials.outcomes(tasks, "what they cost"), strict=True):
            if outcome.graph is None:
                self._fail(place, outcome)
                continue
            self.sized[place] = outcome.graph
            self._cost(place, {SIZE: outcome.graph.size_mib})

    def time(self, *, exact: bool) -> None:
        """Measure what is not ruled out: before training, where training changes nothing of it, and the rest when it is done."""
        meter = self.trials.meter
        if meter is None:
            return
        for place, wanted in enumerate(self.wanted):
            graph = self.sized.get(place) if exact else self.answered.get(place)
            if place in self.ended or place in self.timed or graph is None or (exact and not trial.is_exact(wanted.recipe)):
                continue
            self.trials.progress.update(f"timing {wanted.name}", place / len(self.wanted))
            self.timed.add(place)
            try:
                costs = meter.measure(graph.deployment, graph.key, forbidden(wanted.recipe))
            except EdgemmError as err:
                self._failed(place, err)
                self.trials.measured(err)
                continue
            self.trials.measured(None)
            self._cost(place, costs, rule_out=exact)

    def answer(self) -> None:
        """Train those that are left, and see what they lose."""
        places = [place for place in range(len(self.wanted)) if place not in self.ended]
        tasks = [self._task("answered", place) for place in places]
        for place, outcome in zip(places, self.trials.outcomes(tasks, "what they answer"), strict=True):
            if outcome.graph is None:
                self._fail(place, outcome)
                continue
            self.trials.noted(outcome)
            wanted = self.wanted[place]
            self.answered[place] = self.trials.graphs[wanted.name, wanted.seed] = outcome.graph
            self.costs[place] = {**self.costs.get(place, {}), SIZE: outcome.graph.size_mib}

    def results(self) -> list[Tried]:
        seconds = time.perf_counter() - self.began_s
        return [
            self.ended[place]
            if place in self.ended
            else replace(self._tried(place), losses=self.answered[place].losses, seconds=round(seconds, 1))
            for place in range(len(self.wanted))
        ]

    def _task(self, do: Any, place: int) -> Task:
        wanted = self.wanted[place]
        return Task(do, wanted.name, wanted.recipe.plain(), wanted.seed, alone=trial.times(wanted.recipe))

    def _tried(self, place: int) -> Tried:
        wanted = self.wanted[place]
        costs = {name: value for name, value in self.costs.get(place, {}).items() if math.isfinite(value)}
        return Tried(wanted.name, wanted.options, wanted.recipe.plain(), costs=costs, fidelity=wanted.fidelity, seed=wanted.seed)

    def _cost(self, place: int, costs: Mapping[str, float], *, rule_out: bool = True) -> None:
        self.costs[place] = {**self.costs.get(place, {}), **costs}
        tried, goal = self._tried(place), self.trials.goal
        rough = 1.0 if trial.is_exact(self.wanted[place].recipe) else ROUGH
        least = replace(tried, costs={name: value / rough for name, value in tried.costs.items()})
        if rule_out and goal.is_out(least):
            self._end(place, replace(tried, state=RULED_OUT, why=f"not trained: {'; '.join(goal.missed(tried))}"))

    def _fail(self, place: int, outcome: Outcome) -> None:
        assert outcome.error is not None  # there is no graph
        self._failed(place, outcome.error)
        self.trials.noted(outcome)

    def _failed(self, place: int, error: EdgemmError) -> None:
        self._end(place, replace(self._tried(place), state=FAILED, why=f"{error.what} {error.why}".strip()))

    def _end(self, place: int, tried: Tried) -> None:
        self.ended[place] = replace(tried, seconds=round(time.perf_counter() - self.began_s, 1))
