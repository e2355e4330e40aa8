"""Values that a search tries first, by what each branch bears when it alone is pruned or in INT8, and by which branch has the most work."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from edgemm.contracts import plugins
from edgemm.contracts.card import Card
from edgemm.contracts.recipe import PER_OUTPUT, Recipe
from edgemm.contracts.search_space import Parameter
from edgemm.contracts.sensitivity import Cell, Sensitivity
from edgemm.pipeline import sensitivity as sensitivities
from edgemm.pipeline import stages
from edgemm.pipeline.job import Job
from edgemm.pipeline.per_branch import take_apart
from edgemm.pipeline.searching import space

BEARABLE = 10.0  # points that a pruned branch may lose before anybody trains it again: what distilling for some epochs gives back
BOLDER = 0.25  # more of the branch with the most work
FLOAT = ("fp32", "fp16")
PRUNED = re.compile(r"prune (\d+) %")


def first(job: Job, recipe: Recipe) -> list[dict[str, Any]]:
    """Values for the first trials: of each branch as much as it bears, and the same with more of the one that has the most work.

    [] where the recipe does not ask for hints, or searches nothing by branch.
    """
    search = space.search_of(recipe)
    by_branch = [parameter for parameter in search.space if parameter.selector]
    if not search.hints or not by_branch:
        return []
    target = next(iter(recipe.targets))
    study = job_study(job, target)
    rows = take_apart(stages.export(job, opset=stages.opset(recipe)).main, job.card)
    heaviest = max(rows, key=lambda row: row.macs).branch
    plain = {parameter.name: _own(parameter, recipe) for parameter in search.space}
    borne = {parameter.name: _borne(parameter, study, job.card, recipe) for parameter in by_branch}
    careful = {**plain, **{name: value for name, (value, _) in borne.items()}}
    bold = {**careful}
    for parameter in by_branch:
        value, ratio = borne[parameter.name]
        if ratio is not None and _is_of(parameter.selector, heaviest, job.card):
            bold[parameter.name] = _fitting(parameter, ratio + BOLDER, value)
    return [careful, bold] if bold != careful else [careful]


def job_study(job: Job, target: str) -> Sensitivity:
    """What each branch bears; kept in the cache, cell by cell."""
    with job.progress.stage("what each branch bears"):
        return sensitivities.sensitivity(job, target=target)


def _borne(parameter: Parameter, study: Sensitivity, card: Card, recipe: Recipe) -> tuple[Any, float | None]:
    """A value that the branch bears, and the pruned share it stands for, where it is one."""
    cells = [cell for cell in study.cells if _is_of(parameter.selector, cell.branch, card) and cell.value is not None]
    pruned = {int(match[1]) / 100: _worst(cells, cell.treatment) for cell in cells if (match := PRUNED.fullmatch(cell.treatment))}
    if not parameter.choices or all(isinstance(choice, (int, float, type(None))) for choice in parameter.choices):
        ratio = max((share for share, lost in pruned.items() if lost <= BEARABLE), default=0.0)
        return _fitting(parameter, ratio, _own(parameter, recipe)), ratio
    floats = [choice for choice in parameter.choices if choice in FLOAT]
    others = [choice for choice in parameter.choices if choice not in FLOAT]
    is_harmed = _worst(cells, sensitivities.INT8) > _limit(recipe)
    kept = (floats if is_harmed else others) or list(parameter.choices)
    return kept[0], None


def _fitting(parameter: Parameter, ratio: float, otherwise: Any) -> Any:
    """The value of a parameter that is nearest to a pruned share and not above it."""
    if not parameter.choices:
        return parameter.rounded(min(max(ratio, parameter.low), parameter.high))
    below = [choice for choice in parameter.choices if (choice or 0.0) <= ratio + 1e-9]
    return max(below, key=lambda choice: choice or 0.0) if below else otherwise


def _own(parameter: Parameter, recipe: Recipe) -> Any:
    """What the recipe's own steps say, where that is among the values; else the first of them."""
    name, step_options = recipe.entries()[parameter.step]
    value = parameter.of(step_options, plugins.options("steps", name)[parameter.option].default)
    return value if parameter.holds(value) else parameter.ends()[0]


def _is_of(selector: str, branch: str, card: Card) -> bool:
    """Whether a selector means a branch: by its name, its kind (``head``), or the modality of its input."""
    spec = card.inputs.get(branch)
    return branch == selector or branch.startswith(f"{selector}:") or (spec is not None and spec.modality == selector)


def _worst(cells: list[Cell], treatment: str) -> float:
    return max((cell.value for cell in cells if cell.treatment == treatment and cell.value is not None), default=0.0)


def _limit(recipe: Recipe) -> float:
    """Points that an output may lose; of several limits the least, and one where there is none."""
    given = [recipe.budgets[name] for name in PER_OUTPUT if name in recipe.budgets]
    limits = [float(value) for entry in given for value in (entry.values() if isinstance(entry, Mapping) else [entry])]
    return min(limits, default=1.0)
