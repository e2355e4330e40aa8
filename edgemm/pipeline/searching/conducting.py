"""A search from its first stage to its report: what is made once for all trials, the trials, and what is made of the best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgemm.box.bundle import packing
from edgemm.contracts import written
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.plain_values import plain
from edgemm.contracts.recipe import BUDGETS, Recipe
from edgemm.contracts.report import Report
from edgemm.contracts.search_parts import OnFront, Searched
from edgemm.contracts.slugs import slugs
from edgemm.pipeline import frontends, stages
from edgemm.pipeline.job import Job
from edgemm.pipeline.preparing import forbidden
from edgemm.pipeline.searching import benches, finish, hints, place, space, trial, wording
from edgemm.pipeline.searching.benches import Bench, Place, ThisMachine
from edgemm.pipeline.searching.driver import Search
from edgemm.pipeline.searching.goal import Goal
from edgemm.pipeline.searching.meters import DeviceMeter, side_by_side
from edgemm.pipeline.searching.runners import LocalRunner, threads_of
from edgemm.pipeline.searching.trials import Trials
from edgemm.report import page
from edgemm.store.artifact import Artifact, write_bytes, write_json

if TYPE_CHECKING:
    from edgemm.pipeline.searching.ray_runner import RayRunner


@dataclass(frozen=True)
class Plan:
    """A search that was checked.

    Attributes:
        job: The run on the original.
        given: The card as the user named it.
        recipe: With its budgets and what it searches.
        starts: Recipes that are tried as they are.
        first: Values to try first.
        folder: Where the search is.
        trials, workers: How many, and how many at once.
        place: Where graphs are timed.
        ray: Address of the cluster whose nodes run trials; None = this machine does.
    """

    job: Job
    given: str
    recipe: Recipe
    goal: Goal
    starts: Mapping[str, Recipe]
    first: Sequence[Mapping[str, Any]]
    folder: Path
    trials: int
    workers: int
    place: Place
    ray: str | None = None

    @property
    def target(self) -> str:
        """Of the recipe, the only one."""
        return next(iter(self.recipe.targets))

    def about(self) -> dict[str, Any]:
        """What the trials depend on: the search in a folder goes on only where these are the same."""
        starts = {name: recipe.plain() for name, recipe in self.starts.items()}
        device = {} if self.place.is_here else {"device": self.place.url}
        return {
            **device, "card": self.job.identity, "data": self.job.fingerprint, "seed": self.job.seed,
            "recipe": [self.recipe.plain(), space.search_of(self.recipe).key()], "start": [starts, list(self.first)],
            "skip_bad_rows": self.job.skip_bad_rows,
        }  # fmt: skip


def conduct(plan: Plan, *, until_s: float) -> tuple[Report, bool]:
    """Search, and write what was found into the folder.

    Args:
        until_s: ``time.monotonic`` after which no more trials are begun.

    Returns:
        The report, and whether there is a best bundle.

    Raises:
        EdgemmError: What cannot be searched or made.
    """
    with benches.opened(plan.place, plan.target, plan.job) as bench:
        return _conducted(plan, bench, until_s)


def _conducted(plan: Plan, bench: Bench, until_s: float) -> tuple[Report, bool]:
    job, recipe = plan.job, plan.recipe
    floats, meter = _ground(plan, bench)
    with _driver(plan, meter if plan.goal.timed else None) as driver:
        driver.run(until_s=until_s)
        front = driver.front()
    shown = None
    if front and not bench.cannot_run(floats):
        if not plan.goal.timed:
            _tune(plan, meter)
        recipes = {one.best.name: _recipe_of(plan, one) for one in front}
        graphs = {one.best.name: driver.trials.graphs[one.best.name, one.best.seed] for one in front}
        shown = side_by_side(job, floats, {name: (recipes[name], graphs[name]) for name in recipes}, meter)
        front = driver.ranked([driver.measured(one, _budgeted(shown.costs(one.best.name))) for one in front])
    artifact, of_best = finish.bundle(job, front[0], _recipe_of(plan, front[0])) if front else (None, None)
    there = bench.benchmark(artifact.folder, job) if artifact else None
    counting = driver.counting()
    searched = Searched(
        plan.target, space.search_of(recipe).sampler, plan.goal.words(), job.seed, recipe.budgets, driver.everything(),
        driver.study.importances(), front, "" if front else plan.goal.blocked(counting),
    )  # fmt: skip
    timed_on = [] if bench.name == ThisMachine.name else [f"Times were measured on {bench.name}."]
    report = finish.report(job, searched, shown, there or of_best, [*timed_on, *_notes(plan, searched)])
    _write(plan, searched, report, artifact)
    if there is not None:
        page.write(there, plan.folder / place.ON_DEVICE)
    return report, artifact is not None


def _ground(plan: Plan, bench: Bench) -> tuple[Deployment, DeviceMeter]:
    """What all trials stand on, made while nothing else runs: the export, the original's answers, and what is chosen by timing."""
    job, recipe = plan.job, plan.recipe
    floats = Deployment(plan.target, Path(), dict(recipe.targets[plan.target]))
    if plan.goal.timed:
        benches.require_timing(bench, floats)
    exported = stages.export(job, opset=stages.opset(recipe))
    floats = floats.holding(exported.main)
    trial.original(job, exported)
    for forbid in dict.fromkeys(forbidden(one) for _, one in space.corners(recipe, job.card) if recipe.tunes):
        frontends.fit(job, floats, forbid=forbid)
    meter = DeviceMeter(job, exported, floats, bench)
    if plan.goal.timed:
        _tune(plan, meter)
    return floats, meter


def _tune(plan: Plan, meter: DeviceMeter) -> None:
    """Choose runtime options by the original in INT8, unless the recipe wants nothing timed for that."""
    if not plan.recipe.tunes:
        return
    steps = [(step.name, step.options) for step in plan.recipe.graph_steps()]
    graph = trial.sized(plan.job, plan.recipe.with_steps(steps, plan.recipe.name))
    meter.tune(graph.deployment, graph.key)


@contextmanager
def _driver(plan: Plan, meter: DeviceMeter | None) -> Iterator[Search]:
    from edgemm.pipeline.searching.study import Study  # optuna: the extra 'search'

    search, job = space.search_of(plan.recipe), plan.job
    first = [*plan.first, *(values for values in hints.first(job, plan.recipe) if values not in plan.first)]
    sampled = max(len(first), plan.trials - len(plan.starts), 1)
    study = Study(plan.folder / place.JOURNAL, search, plan.goal, seed=job.seed, trials=sampled, first=first)
    with _runner(plan, threads_of(search.batch)) as runner:
        yield Search(
            plan.recipe, plan.starts, plan.goal, study, Trials(plan.goal, runner, meter, job.progress), job.seed,
            partial(place.write_log, plan.folder),
        )  # fmt: skip


def _runner(plan: Plan, threads: int) -> LocalRunner | RayRunner:
    card, data = plan.given, str(plan.job.data)
    if plan.ray is None:
        return LocalRunner(card, data, skip_bad_rows=plan.job.skip_bad_rows, workers=plan.workers, threads=threads)
    from edgemm.pipeline.searching.ray_runner import RayRunner  # ray: the extra of that name

    return RayRunner(plan.ray, card, data, skip_bad_rows=plan.job.skip_bad_rows, threads=threads, note=plan.job.progress.note)


def _recipe_of(plan: Plan, one: OnFront) -> Recipe:
    if one.best.name in plan.starts:
        return plan.starts[one.best.name]
    return space.with_values(plan.recipe, one.best.options, one.best.fidelity)


def _budgeted(costs: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in costs.items() if name in BUDGETS}


def _notes(plan: Plan, searched: Searched) -> list[str]:
    missed = "; ".join(searched.front[0].missed) if searched.front else ""
    name = searched.front[0].best.name if searched.front else ""
    return [
        *([f"Nothing keeps the budgets: {searched.blocked}"] if searched.blocked else []),
        *([f"{name} keeps the budgets in its best training; on average over its trainings it misses {missed}."] if missed else []),
        *plan.recipe.notes(plan.job.card),
    ]


def _write(plan: Plan, searched: Searched, report: Report, artifact: Artifact | None) -> None:
    """Everything that is left in the folder; the bundle last."""
    for path in (plan.folder / place.RECIPES).glob("*.yaml"):  # of a search that was shorter
        path.unlink()
    names = slugs([one.best.name for one in searched.front])
    for one in searched.front:
        text = written.dump(_recipe_of(plan, one).plain())
        write_bytes(plan.folder / place.RECIPES / f"{names[one.best.name]}.yaml", text.encode())
    lines = [wording.line(tried, plan.goal) for tried in searched.trials]
    ends = [wording.on_front(one) for one in searched.front] or [f"nothing keeps the budgets: {searched.blocked}"]
    place.write_log(plan.folder, [*lines, "", *ends])
    front = [{**plain(one), "file": f"{place.RECIPES}/{names[one.best.name]}.yaml"} for one in searched.front]
    test = [plain(m) for m in report.measurements if m.output and m.subject in ("bundle", "original")]
    write_json(
        plan.folder / place.FRONT,
        {"format": place.FORMAT, **plain(replace(searched, front=())), "front": front, "best": place.BEST if front else None, "test": test},
    )
    page.write(report, plan.folder)
    if artifact is not None:
        packing.copy(artifact.folder, plan.folder / place.BEST)
