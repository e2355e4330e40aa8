"""What a target's graph steps start from: the forms of front-ends, the precision of branches that are timed, and what may not run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgemm.contracts.deployment import Deployment
from edgemm.contracts.recipe import Recipe
from edgemm.pipeline import frontends
from edgemm.pipeline.auto_precision import Decided, decide
from edgemm.pipeline.frontends import Fitted
from edgemm.pipeline.job import Job
from edgemm.pipeline.part_quantized import Partial
from edgemm.pipeline.stages import quantize
from edgemm.store.artifact import Artifact


@dataclass(frozen=True)
class Prepared:
    """What a target's graph steps start from.

    Attributes:
        floats: The float graph as it came, on the target.
        exported: The float graph, its front-ends in the forms that fit the target.
        start: What is quantized: that graph, or one with Q/DQ that a step trained.
        safe: Runtime options that apply on any machine.
        forbid: Float types that must not run.
        fitted: The forms of the front-ends.
        decided: The graph steps, every ``auto`` among them decided by timing.
        is_trained: Training put Q/DQ into ``start``.
    """

    floats: Deployment
    exported: Artifact
    start: Artifact
    safe: dict[str, Any]
    forbid: frozenset[str]
    fitted: Fitted
    decided: Decided
    is_trained: bool = False

    def quantized(self, job: Job, graph: Artifact, original: tuple[Job, Artifact]) -> Partial:
        """``graph`` in INT8 on the target, with the safe runtime options.

        Args:
            original: The run and the float graph that accuracy is held against.
        """
        model = quantize(job, graph, self.decided.steps, self.floats.target, is_trained=self.is_trained)
        return Partial(job, graph, model, self.floats.holding(model.main).running(self.safe), original, self.exported)


def prepare(job: Job, exported: Artifact, recipe: Recipe, name: str, *, start: Artifact | None = None) -> Prepared:
    """Choose what is chosen before quantizing: forms of front-ends, and the precision of branches that are to be timed.

    Args:
        exported, start: As ``compile_for`` takes them.
    """
    floats = Deployment(name, exported.main, dict(recipe.targets[name]))
    forbid = forbidden(recipe)
    fitted = frontends.fit(job, floats, forbid=forbid, most=frontends.most_bytes(recipe)) if recipe.tunes else frontends.untimed(job)
    formed = fitted.apply(job, exported)
    begin = fitted.apply(job, start) if start else formed
    decided = decide(job, formed, recipe.graph_steps(), floats, forbid=forbid, trained=start is not None)
    return Prepared(floats, formed, begin, floats.plugin().choices(forbid=forbid)[0], forbid, fitted, decided, start is not None)


def forbidden(recipe: Recipe) -> frozenset[str]:
    """Float types that must not run: a branch that the recipe marks fp32 forbids the short ones, which hold for a whole graph."""
    precisions = [step.options.get("precision") for step in recipe.graph_steps()]
    words = {value for precision in precisions if isinstance(precision, Mapping) for value in precision.values()}
    return frozenset({"bf16", "fp16"} if "fp32" in words else ())
