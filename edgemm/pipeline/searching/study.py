"""The study: which values are tried next. Optuna samples; this alone opens its journal.

So that the same seed gives the same trials, resumed or not: the sampler's random numbers begin anew with every trial, from the seed and the
trial's number; trials are chosen in batches, each knowing the results of the batches before it; and what a killed search had chosen and
not finished is finished before anything else is chosen. Where all combinations fit into the trials each is tried, whatever the sampler:
one that draws with repetition would leave some out.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from edgemm.contracts.plain_values import plain, read
from edgemm.contracts.search_parts import FAILED, Tried
from edgemm.contracts.search_space import Parameter, Search
from edgemm.pipeline.searching.goal import Goal

STARTUP = 10
"""Trials at most that are drawn at random before a sampler learns; a quarter of few."""
LEAST_POPULATION = 4
RESULT = "result"
UNNAMED = "edgemm"


class Study:
    """Chooses trials and remembers what came of them, in a file.

    Args:
        path: The journal; its lines of before are read again.
        trials: How many are wanted in all: how many of them are drawn at random depends on it.
        first: Values to try first.
    """

    def __init__(self, path: Path, search: Search, goal: Goal, *, seed: int, trials: int, first: Sequence[Mapping[str, Any]] = ()) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._search, self._goal, self._seed, self._first = search, goal, seed, list(first)
        self._distributions = {parameter.name: _distribution(parameter) for parameter in search.space}
        self._grid: list[dict[str, Any]] | None = None  # None: the sampler chooses
        self._trials = trials
        if search.sampler == "grid" or _combinations(search.space) <= trials:
            untried = [values for values in _grid(search.space, seed) if values not in self._first]
            whole = len(self._first) + len(untried)
            if search.sampler == "grid" or whole <= trials:
                self._grid, self._trials = untried, min(trials, whole)
        path = path.absolute()  # with a relative one, Optuna waits for ever on the lock that a killed process left
        mend(path)
        self._study = optuna.create_study(
            study_name=UNNAMED, directions=["minimize"] * goal.count, sampler=RandomSampler(), load_if_exists=True,
            storage=JournalStorage(JournalFileBackend(str(path))),
        )  # fmt: skip

    @property
    def trials(self) -> int:
        """How many there are to be: fewer than wanted where a grid ends."""
        return self._trials

    def results(self) -> list[Tried]:
        """What came of the finished trials, by number."""
        return [read(Tried, json.loads(trial.user_attrs[RESULT])) for trial in self._finished() if RESULT in trial.user_attrs]

    def next_batch(self) -> list[tuple[int, dict[str, Any]]]:
        """Numbers and values of the next trials, those among them that a killed search had chosen; [] when all are done."""
        there = self._study.get_trials(deepcopy=False)
        number = next((trial.number for trial in there if not trial.state.is_finished()), len(there))
        begin = number - number % self._search.batch
        numbers = range(begin, min(begin + self._search.batch, self._trials))
        return [(number, self._choose(number)) for number in numbers if number >= len(there) or not there[number].state.is_finished()]

    def tell(self, results: Mapping[int, Tried]) -> None:
        """Note what came of a batch, in the order of numbers."""
        for number in sorted(results):
            self._tell(self._trial(number, RandomSampler()), results[number])

    def importances(self) -> dict[str, float]:
        """Parameter -> share of the differences in the first objective that it explains; {} where too little was answered."""
        answered = [trial for trial in self._finished() if trial.state == TrialState.COMPLETE and self._is_answered(trial)]
        told = optuna.create_study(direction="minimize")
        for trial in answered:
            told.add_trial(optuna.create_trial(params=trial.params, distributions=trial.distributions, value=trial.values[0]))
        if len(answered) < LEAST_POPULATION or len({trial.values[0] for trial in answered}) < 2:
            return {}
        shares = optuna.importance.get_param_importances(told)
        return {name: float(share) for name, share in shares.items() if math.isfinite(share)}

    def _finished(self) -> list[FrozenTrial]:
        return [trial for trial in self._study.get_trials(deepcopy=False) if trial.state.is_finished()]

    def _is_answered(self, trial: FrozenTrial) -> bool:
        return bool(read(Tried, json.loads(trial.user_attrs[RESULT])).losses)

    def _choose(self, number: int) -> dict[str, Any]:
        """The values of a trial, new or of a search that was killed while it ran or while it was chosen."""
        trial = self._trial(number, self._sampler(number))
        values = {parameter.name: self._suggested(trial, parameter) for parameter in self._search.space}
        return dict(self._first[number]) if number < len(self._first) else values

    def _trial(self, number: int, sampler: BaseSampler) -> optuna.Trial:
        self._study.sampler = sampler
        there = self._study.get_trials(deepcopy=False)
        if number < len(there):
            return optuna.Trial(self._study, there[number]._trial_id)
        return self._study.ask()

    def _suggested(self, trial: optuna.Trial, parameter: Parameter) -> Any:
        distribution = self._distributions[parameter.name]
        if isinstance(distribution, CategoricalDistribution):
            return parameter.choices[trial.suggest_categorical(parameter.name, distribution.choices)]  # type: ignore[index]
        if isinstance(distribution, IntDistribution):
            return trial.suggest_int(parameter.name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
        assert isinstance(distribution, FloatDistribution)
        drawn = trial.suggest_float(parameter.name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
        return parameter.rounded(drawn)

    def _sampler(self, number: int) -> BaseSampler:
        """The sampler of one trial; its numbers are drawn from the seed and the trial's number alone."""
        seed = int.from_bytes(hashlib.sha256(f"{self._seed} {number}".encode()).digest()[:4], "big")
        known = self._first[number] if number < len(self._first) else None
        if known is None and self._grid is not None:
            known = self._grid[number - len(self._first)]
        if known is not None:
            return _Listed(self._search.space, known)
        startup = min(STARTUP, max(1, self._trials // 4))
        match self._search.sampler:
            case "tpe":
                return TPESampler(seed=seed, n_startup_trials=startup, multivariate=True)
            case "gp":
                return GPSampler(seed=seed, n_startup_trials=startup)
            case "nsga2":
                return NSGAIISampler(seed=seed, population_size=max(LEAST_POPULATION, self._trials // 4))
        return RandomSampler(seed=seed)

    def _tell(self, trial: optuna.Trial, tried: Tried) -> None:
        for name, excess in self._goal.excesses(tried).items():
            if name not in trial.constraints:  # a killed search may have come so far
                trial.set_constraint(name, excess)
        trial.set_user_attr(RESULT, json.dumps(plain(tried)))
        if tried.state == FAILED:
            self._study.tell(trial.number, state=TrialState.FAIL)
        else:
            self._study.tell(trial.number, self._goal.values(tried) if tried.losses else self._worst())

    def _worst(self) -> list[float]:
        """What a trial counts as that was ruled out before anybody knew its accuracy: its budgets tell the sampler the rest."""
        told = [trial.values for trial in self._finished() if trial.values]
        return [max(values) for values in zip(*told, strict=True)] if told else [0.0] * self._goal.count


def mend(path: Path) -> None:
    """Make a journal whole that a kill, or a full disk, cut off in the middle of a line, and open one that a killed process had locked.

    A new line would be glued to half a line, and both be lost with all that follows.
    """
    for lock in path.parent.glob(f"{path.name}.lock*"):
        lock.unlink(missing_ok=True)
    if path.is_file():
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            path.write_bytes(whole)


class _Listed(BaseSampler):
    """Values that are known before."""

    def __init__(self, space: Sequence[Parameter], values: Mapping[str, Any]) -> None:
        self._parameters, self._values = {parameter.name: parameter for parameter in space}, values

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:  # fmt: skip
        return self._parameters[param_name].place(self._values[param_name])


def _distribution(parameter: Parameter) -> BaseDistribution:
    """A parameter as Optuna has it; a choice by its place, for mappings and lists are no values there."""
    if parameter.choices:
        return CategoricalDistribution(range(len(parameter.choices)))
    if parameter.whole:
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log, step=int(parameter.every or 1))
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.every)


def _combinations(space: Sequence[Parameter]) -> float:
    """How many there are; inf where a parameter's values cannot be counted."""
    return math.prod(len(parameter.grid()) or math.inf for parameter in space)


def _grid(space: Sequence[Parameter], seed: int) -> list[dict[str, Any]]:
    """All combinations, in an order that the seed says: a part of them is then a fair sample."""
    combined: list[dict[str, Any]] = [{}]
    for parameter in space:
        combined = [{**values, parameter.name: value} for values in combined for value in parameter.grid()]
    random.Random(seed).shuffle(combined)
    return combined
