"""What a target gets is not slower than the float graph as its runtime takes it: where INT8 does not pay, it is given up.

First each branch is timed alone in every precision, as under ``precision: auto``; where that does not suffice everything stays in float.
``for: size`` in a recipe keeps INT8 in any case, and so does a branch that the recipe itself marks int8.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from edgemm.box.measuring.statistics import RatioInterval
from edgemm.contracts import plugins
from edgemm.contracts.interval import show_interval
from edgemm.contracts.recipe import DEFAULT, Recipe, Step
from edgemm.contracts.target import Target
from edgemm.pipeline.auto_precision import AUTO, INT8, normal
from edgemm.pipeline.compiling import Compiled, compile_for
from edgemm.pipeline.job import Job
from edgemm.store.artifact import Artifact


def compile_paying(job: Job, exported: Artifact, recipe: Recipe, name: str, **more: Any) -> Compiled:
    """As ``compile_for``, with less of it in INT8 where the whole is slower than the runtime by itself; a note says so.

    Args:
        more: As ``compile_for`` takes it.

    Raises:
        ParityError: As ``compile_for``.
    """
    first = best = compile_for(job, exported, recipe, name, **more)
    for steps in _others(recipe, name):
        if not _is_slower(best.against):
            break
        other = compile_for(job, exported, replace(recipe, steps=steps), name, **more)
        if other.against is None or best.against is None or other.against.value < best.against.value:
            best = other
    notes = _notes(name, first, best.against, changed=best is not first)
    return replace(best, notes=[*best.notes, *notes])


def _others(recipe: Recipe, name: str) -> Iterator[tuple[Step, ...]]:
    """The recipe's steps with the branches that it leaves to its default decided by timing; then in float."""
    precisions = [normal(step).options["precision"] for step in recipe.graph_steps() if step.quantizes]
    if not precisions or any(precision.get(DEFAULT, "") not in ("", AUTO) for precision in precisions):
        return
    if not any(DEFAULT in precision for precision in precisions):
        yield _with_default(recipe, AUTO)
    yield _with_default(recipe, plugins.load(Target, name).numerics.floats[-1])


def _with_default(recipe: Recipe, word: str) -> tuple[Step, ...]:
    def changed(step: Step) -> Step:
        return replace(step, options={**step.options, "precision": {**normal(step).options["precision"], DEFAULT: word}})

    return tuple(changed(step) if step.quantizes else step for step in recipe.steps)


def _is_slower(against: RatioInterval | None) -> bool:
    return against is not None and against.verdict == "slower"


def _notes(name: str, first: Compiled, best: RatioInterval | None, *, changed: bool) -> list[str]:
    if not _is_slower(first.against):
        return []
    form = first.form.upper() if first.form == INT8 else first.form
    words = f"{name}: in {form} the model took {_words(first.against)} of the time of the float graph as {name} takes it by itself"
    if not changed:
        return [f"{words}; it is kept, since nothing else that the recipe allows was faster."]
    now = f"; now it takes {_words(best)}" if best is not None else ""
    return [f"{words}, so branches that gained nothing stay in float{now}. For the smaller file all the same: for: size in the recipe."]


def _words(against: RatioInterval | None) -> str:
    assert against is not None
    return f"{against.value:.2f} {show_interval(against.low, against.high)}".strip()
