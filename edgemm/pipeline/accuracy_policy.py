"""What a recipe says about accuracy: how much each head may lose, what is done then, and which branches it insists on in INT8."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from edgemm import metrics
from edgemm.card import Card
from edgemm.pipeline.partial import Partial
from edgemm.recipe import DEFAULT, Recipe

BUDGET = "accuracy_drop_points"


@dataclass(frozen=True)
class Policy:
    """What a recipe says about accuracy.

    Attributes:
        limits: Output -> most that may be lost, in points or in the output's unit.
        on_miss: ``revert`` to float, then stop; revert, then ``qat``; only ``report``.
        locked: Branches that the recipe itself marks int8: they are not reverted.
        size_mib: Size that a reverted graph may have; None = any.
    """

    limits: Mapping[str, float]
    on_miss: str = "revert"
    locked: Collection[str] = ()
    size_mib: float | None = None


def limits_of(card: Card, budgets: Mapping[str, Any]) -> dict[str, float]:
    """Output -> limit of its accuracy budget; outputs without a metric have none."""
    given = budgets.get(BUDGET)
    outputs = [name for name, output in card.outputs.items() if metrics.guarded(output) != "sqnr_db"]
    if given is None:
        return {}
    each = given if isinstance(given, Mapping) else dict.fromkeys(outputs, given)
    return {name: float(each[name]) for name in outputs if name in each}


def policy_of(recipe: Recipe, partial: Partial) -> Policy:
    """The recipe's wishes about accuracy for one Q/DQ graph."""
    options = next((step.options for step in recipe.graph_steps() if step.name == "quantize"), {})
    precision = options.get("precision")
    named = {key: value for key, value in precision.items() if key != DEFAULT} if isinstance(precision, Mapping) else {}
    locked: set[str] = set()
    for selector, wanted in named.items():  # a later selector overrides an earlier one
        found = partial.branches.select(selector, partial.job.card)
        locked = locked | set(found) if wanted == "int8" else locked - set(found)
    size = recipe.budgets.get("size_mib")
    return Policy(
        limits_of(partial.job.card, recipe.budgets), options.get("on_miss", "revert"), locked, None if size is None else float(size)
    )
