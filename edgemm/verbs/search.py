"""`edgemm search`: find the best model within budgets, by trying."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemm.box.bundle import packing
from edgemm.box.devices import threads
from edgemm.box.remote.fleet_file import LOCAL
from edgemm.box.remote.ssh import parse as parse_address
from edgemm.contracts import plugins
from edgemm.contracts.recipe import PER_OUTPUT
from edgemm.contracts.recipe import load as load_recipe
from edgemm.contracts.report import Report
from edgemm.contracts.search_parts import Searched
from edgemm.errors import DataError, EdgemmError
from edgemm.pipeline import stages
from edgemm.pipeline.job import Job, start
from edgemm.pipeline.searching import place, space, trial, wording
from edgemm.pipeline.searching.benches import Place
from edgemm.pipeline.searching.conducting import Plan, conduct
from edgemm.pipeline.searching.goal import goal_of
from edgemm.progress import Progress
from edgemm.report.terminal import Ending
from edgemm.verbs._search import trainings
from edgemm.verbs._search.trainings import TrainingsSearched


@dataclass(frozen=True)
class Found:
    """What a search left.

    Attributes:
        folder: Holds ``front.json``, ``study.log``, ``report.html``, the recipes of the front, and the best bundle, where there is one.
        best: The bundle; None where nothing keeps the budgets.
        report: Of the search; its budgets are those of the bundle as it was measured at the end.
    """

    folder: Path
    best: Path | None
    report: Report

    @property
    def searched(self) -> Searched:
        """Everything that was tried, and the front."""
        searched = self.report.details.search
        assert searched is not None  # every search has one
        return searched

    def to_dict(self) -> dict[str, Any]:
        return {"folder": str(self.folder), "best": str(self.best) if self.best else None, "report": self.report.to_dict()}

    def __str__(self) -> str:
        searched = self.searched
        if self.best is None:
            return f"nothing keeps the budgets: {searched.blocked}"
        lines = [f"{len(searched.trials)} tried for {searched.objective} on {searched.target}; the best, best first:"]
        lines += [wording.on_front(one) for one in searched.front]
        return "\n".join([*lines, *map(str, self.report.budgets)])


def search(
    card: str | Path,
    *,
    data: str | Path,
    output: str | Path,
    recipe: str | Path | None = None,
    train: bool = False,
    config: str | Path | None = None,
    budgets: Mapping[str, float] | None = None,
    trials: int = 40,
    minutes: float | None = None,
    seed: int = 0,
    workers: int = 1,
    ray: str | None = None,
    measure: str = LOCAL,
    setup: bool = False,
    ssh_config: str | Path | None = None,
    untrained: bool = False,
    skip_bad_rows: bool = False,
    progress: Progress | None = None,
) -> Found | TrainingsSearched:
    """Try recipes until the best within the budgets is found, by measurement, and make a bundle of it.

    What a recipe's ``search`` section names is varied; see docs/search.md. A killed search goes on where it was when the same command is
    given again, and the same seed gives the same trials, whether it was killed or not and with any number of workers.

    Args:
        card: A model.yaml, a folder with one, a shipped card's name, or an ``.onnx`` file.
        recipe: A recipe file with a ``search`` section, or the name of a shipped one; not with ``train``.
        train: Search the best training instead: what ``search`` in the card's ``train`` section names is varied; see docs/training.md.
        config: With ``train``, a train.yaml instead of the card's section.
        data: The dataset; trials are judged on val, and test is looked at once, for the best.
        output: Folder for what is found; a search that was begun there goes on.
        budgets: Limits beside and instead of the recipe's, such as ``latency_p95_ms=15`` or, of one output,
            ``accuracy_drop_points.event=1``; may be repeated.
        trials: How many are tried, recipes as they are included.
        minutes: Begin no more trials after so long; the best are then still trained again and measured.
        seed: Of the choice of trials and of their trainings.
        workers: Trials at once, each in a process of its own.
        ray: Run trials on the nodes of a Ray cluster instead: ``auto`` for the one this machine is in, or ``host:port``.
        measure: Where graphs are timed: ``local``, or ``ssh://user@host:port``, while nobody else measures there.
        setup: With ``measure`` over ssh: first make a virtual environment there with what is missing.
        ssh_config: With ``measure`` over ssh: ssh's configuration file instead of the user's own.
        untrained: Search for a card without weights all the same, with weights drawn at random; accuracy then says nothing.
        skip_bad_rows: Leave out rows that cannot be read instead of stopping.

    Raises:
        EdgemmError: Anything a user can mend, before any trial where it can be known.
    """
    _require_optuna()
    if train or recipe is None:
        of_recipes = {
            "recipe": recipe is not None, "budget": bool(budgets), "untrained": untrained, "workers": workers != 1, "ray": ray is not None,
            "measure": measure != LOCAL,
        }  # fmt: skip
        _check_training(train, of_recipes)
        threads.wait_passively()
        return trainings.search(
            card, data, Path(output), config=config, trials=_at_least_one("trials", trials), seed=seed, skip_bad_rows=skip_bad_rows,
            until_s=time.monotonic() + (math.inf if minutes is None else 60 * minutes), progress=progress or Progress(),
        )  # fmt: skip
    if ray is not None:
        _require_ray(ray, workers)
    device = _device(measure, setup=setup, config=Path(ssh_config) if ssh_config else None)
    folder, until_s = Path(output), time.monotonic() + (math.inf if minutes is None else 60 * minutes)
    job = start(card, data, needed=("test",), seed=seed, skip_bad_rows=skip_bad_rows, progress=progress)
    plan = _plan(job, str(card), recipe, budgets or {}, folder, trials=trials, workers=workers, device=device, ray=ray)
    threads.wait_passively()  # before what follows imports torch
    with place.taken(folder, plan.about()):
        packing.check_place(folder / place.BEST)
        stages.check_weights(job, untrained=untrained)
        space.check(job, plan.recipe)
        report, has_best = conduct(plan, until_s=until_s)
    return Found(folder, folder / place.BEST if has_best else None, report)


def ending(found: Found | TrainingsSearched, *, data: str | Path, **_: Any) -> Ending:
    """What the command line says at the end."""
    if isinstance(found, TrainingsSearched):
        command = f"edgemm compress {found.best / 'model.yaml'} -r openvino-int8 -d {data} -o build/{found.folder.name}"
        return Ending(found, (found.best,), command)
    following = f"edgemm verify {found.best}" if found.best else f"open {found.folder / 'report.html'} in a browser"
    written = (found.best,) if found.best else ()
    return Ending(found, written, following, report=found.report, fell_short=found.best is None)


def _check_training(train: bool, of_recipes: Mapping[str, bool]) -> None:
    """Raises EdgemmError where what belongs to a search over recipes alone is given: option -> whether it is."""
    if not train:
        raise EdgemmError("a search needs a recipe.", fix="add -r search, or --train to search the best training instead.")
    for name in (name for name, is_given in of_recipes.items() if is_given):
        why = "trainings run one after the other, each on all cores." if name == "workers" else "it belongs to a search over recipes."
        raise EdgemmError(f"{name} is given with --train.", why=why, fix=f"take --{name} out.")


def _at_least_one(name: str, value: int) -> int:
    if value < 1:
        raise EdgemmError(f"{name} is {value}.", fix="write a whole number of at least 1.")
    return value


def _require_optuna() -> None:
    try:
        import optuna  # noqa: F401  what samples; told before any work
    except ModuleNotFoundError as err:
        raise plugins.missing_extra(err, "edgemm search") from err


def _require_ray(address: str, workers: int) -> None:
    """See that a cluster is there, before any work.

    Raises:
        MissingExtra: Ray is not installed.
        RemoteError: Nobody answers there.
        EdgemmError: ``workers`` is given too.
    """
    try:
        import ray  # noqa: F401  told before any work
    except ModuleNotFoundError as err:
        raise plugins.missing_extra(err, "edgemm search --ray") from err
    from edgemm.pipeline.searching.ray_runner import join

    if workers != 1:
        raise EdgemmError(
            "--workers and --ray cannot both say who runs trials.", fix="leave out --workers: the cluster's processors count."
        )
    join(address)


def _device(measure: str, *, setup: bool, config: Path | None) -> Place:
    """Where to measure.

    Raises:
        RemoteError: ``measure`` is neither ``local`` nor an address.
    """
    if measure != LOCAL:
        parse_address(measure)
    return Place(measure, setup=setup, config=config)


def _plan(
    job: Job, given: str, recipe: str | Path, budgets: Mapping[str, float], folder: Path, *, trials: int, workers: int,
    device: Place, ray: str | None,
) -> Plan:  # fmt: skip
    """What is to be searched, checked as far as it can be without work."""
    _at_least_one("trials", trials)
    _at_least_one("workers", workers)
    whole = load_recipe(recipe, card=job.card)
    search = space.search_of(whole)
    whole = whole.with_budgets(_by_output(budgets), job.card)
    goal = goal_of(whole, job.card)
    if not trial.split_of(job):
        why = "there are only test rows, which are for reporting."
        raise DataError("a search judges its trials on val.", why=why, fix="add rows with split = val, or of train.")
    for note in whole.notes(job.card):
        job.note(note)
    starts = space.starts(whole, job.card)
    values = {name: search.values_of(one.entries(), whole.entries()) for name, one in starts.items()}
    first = [known for known in values.values() if known is not None]
    as_they_are = {name: one for name, one in starts.items() if values[name] is None}
    return Plan(job, given, whole, goal, as_they_are, first, folder, trials, workers, device, ray)


def _by_output(budgets: Mapping[str, float]) -> dict[str, Any]:
    """Budgets as a recipe has them: of ``accuracy_drop_points.event`` the output is a key of its own."""
    whole: dict[str, Any] = {}
    for name, limit in budgets.items():
        budget, _, output = name.partition(".")
        if output and budget in PER_OUTPUT:
            whole.setdefault(budget, {})[output] = limit
        else:
            whole[name] = limit
    return whole
