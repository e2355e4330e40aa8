"""From a recipe that searches to the recipes it means, every mistake of them told before any is tried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgemm.contracts import recipe as recipes
from edgemm.contracts.card import Card
from edgemm.contracts.recipe import Recipe
from edgemm.contracts.search_space import Search
from edgemm.errors import Collector, EdgemmError, Mistakes, RecipeError
from edgemm.pipeline import torch_steps
from edgemm.pipeline.job import Job


def search_of(recipe: Recipe) -> Search:
    """What a recipe searches.

    Raises:
        RecipeError: Nothing, or for several targets at once.
    """
    if recipe.search is None:
        raise RecipeError(
            f"recipe '{recipe.name}' says nothing to search.",
            why="it has no section 'search'.",
            fix="add search: {space: {...}}, as `edgemm list search` shows, or run it with edgemm compress.",
        )
    if len(recipe.targets) > 1:
        raise RecipeError(
            f"recipe '{recipe.name}' is for {len(recipe.targets)} targets.",
            why="what is best for one is not for the other, and a search finds one model.",
            fix=f"keep one target, such as targets: {{{next(iter(recipe.targets))}: {{}}}}, and search once for each.",
        )
    return recipe.search


def with_values(recipe: Recipe, values: Mapping[str, Any], fidelity: Any = None) -> Recipe:
    """The recipe that these values mean.

    Args:
        fidelity: Of the option that costs time; where none is given it has the value that counts.
    """
    search = search_of(recipe)
    costly = {search.fidelity.parameter.name: search.fidelity.values[-1] if fidelity is None else fidelity} if search.fidelity else {}
    return recipe.with_steps(search.applied(recipe.entries(), {**values, **costly}), recipe.name)


def starts(recipe: Recipe, card: Card) -> dict[str, Recipe]:
    """Recipes that are tried first: their steps, for the target and the budgets of the search.

    Raises:
        RecipeError, Mistakes: One is not there, or is wrong.
    """
    mistakes, found = Collector(), dict[str, Recipe]()
    for name in search_of(recipe).start:
        with mistakes.catch():
            other = recipes.load(name, card=card)
            found[other.name] = recipe.with_steps(other.entries(), other.name)
    mistakes.raise_if_any()
    return found


def check(job: Job, recipe: Recipe) -> None:
    """Ask the steps of every choice, one parameter after the other changed from the first of all, what cannot be.

    Raises:
        EdgemmError: One mistake.
        Mistakes: All of them, each once.
    """
    mistakes, told = Collector(), set[str]()
    for what, one in corners(recipe, job.card):
        try:
            torch_steps.check(job, one)
        except Mistakes as err:
            errors = err.errors
        except EdgemmError as err:
            errors = (err,)
        else:
            continue
        for error in errors:
            if error.what not in told:
                told.add(error.what)
                mistakes.add(type(error)(f"{what}: {error.what}", why=error.why, fix=error.fix))
    mistakes.raise_if_any()


def corners(recipe: Recipe, card: Card) -> Iterator[tuple[str, Recipe]]:
    """Recipes that show each value by which a parameter is checked, and those that are tried first, with words for each."""
    search = search_of(recipe)
    first = {parameter.name: parameter.ends()[0] for parameter in search.space}
    yield "search", with_values(recipe, first)
    for parameter in search.space:
        for value in parameter.ends()[1:]:
            yield f"search.space.{parameter.name}: {value!r}", with_values(recipe, {**first, parameter.name: value})
    if search.fidelity:
        for value in search.fidelity.values:
            yield f"search.fidelity.{search.fidelity.parameter.name}: {value!r}", with_values(recipe, first, value)
    for name, one in starts(recipe, card).items():
        yield f"search.start.{name}", one
