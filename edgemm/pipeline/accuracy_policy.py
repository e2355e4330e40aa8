"""What a recipe says about accuracy, for one quantized graph: limits of each output, and what to do where they are missed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from edgemm.contracts import plugins
from edgemm.contracts import task as tasks
from edgemm.contracts.card import Card
from edgemm.contracts.recipe import DEFAULT, Recipe
from edgemm.contracts.report import Measurement
from edgemm.pipeline.part_quantized import Partial

BUDGET = "accuracy_drop_points"


@dataclass(frozen=True)
class Policy:
    """What a recipe says about accuracy.

    Attributes:
        limits: Output -> most that may be lost, in points or in the output's unit.
        on_miss: ``revert`` to float, then stop; only ``report``; or a step that trains with quantization: revert, then that.
        locked: Branches that the recipe itself marks int8: they are not reverted.
        size_mib: Size that a reverted graph may have; None = any.
    """

    limits: Mapping[str, float]
    on_miss: str = "revert"
    locked: Collection[str] = ()
    size_mib: float | None = None

    @property
    def retrains(self) -> bool:
        """Whether a step trains where reverting does not suffice."""
        return self.on_miss in plugins.names("steps")


def limits_of(card: Card, budgets: Mapping[str, Any], lost: Mapping[str, Measurement] = MappingProxyType({})) -> dict[str, float]:
    """Output -> limit of its accuracy budget; outputs without a metric have none.

    A bare number means points. For a regression, whose own unit says nothing about how much is much, a point is a hundredth of the spread
    (standard deviation) of its labels on the rows judged; a number given for one output is in that output's unit.

    Args:
        lost: Output -> its loss on the rows judged, which knows their spread.
    """
    budget = budgets.get(BUDGET)
    outputs = tasks.scored_outputs(card)
    if budget is None:
        return {}
    if isinstance(budget, Mapping):
        return {name: float(budget[name]) for name in outputs if name in budget}
    return {name: lost[name].limit_of(budget) if name in lost else float(budget) for name in outputs}


def policy_of(recipe: Recipe, partial: Partial) -> Policy:
    """The recipe's wishes about accuracy for one Q/DQ graph."""
    options = next((step.options for step in recipe.graph_steps() if step.quantizes), {})
    precision = options.get("precision")
    named = {key: value for key, value in precision.items() if key != DEFAULT} if isinstance(precision, Mapping) else {}
    locked: set[str] = set()
    for selector, word in named.items():  # a later selector overrides an earlier one
        branches = partial.branches.select(selector, partial.job.card)
        locked = locked | set(branches) if word == "int8" else locked - set(branches)
    size = recipe.budgets.get("size_mib")
    lost = partial.lost() if BUDGET in recipe.budgets and partial.split else {}
    return Policy(
        limits_of(partial.job.card, recipe.budgets, lost),
        options.get("on_miss", "revert"),
        locked,
        None if size is None else float(size),
    )
