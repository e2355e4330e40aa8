"""One trial: the stages of a recipe as far as a judgement needs them; tuning and benchmark, nine tenths of a ``compress``, are left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgemm.box.measuring.candidate import Candidate
from edgemm.box.measuring.measurements import size_bytes
from edgemm.contracts.answers import Answers
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.recipe import Recipe, Step
from edgemm.contracts.search_parts import OutputLoss
from edgemm.pipeline import answers, preparing, stages, torch_steps
from edgemm.pipeline.answers import DECISION_ROWS
from edgemm.pipeline.job import Job
from edgemm.store.artifact import Artifact


@dataclass(frozen=True)
class Graph:
    """What a recipe came to.

    Attributes:
        deployment: The graph on its target, with the options that are safe there.
        key: The artifact's, for keys of what is measured of it.
    """

    deployment: Deployment
    key: str
    size_mib: float
    losses: Mapping[str, OutputLoss]


def sized(job: Job, recipe: Recipe) -> Graph:
    """The graph as large and as fast as the recipe makes it, without training: what it answers is worth nothing.

    Exact where nothing is trained before the last cut (see ``is_exact``).
    """
    steps = [torch_steps.quick(step) for step in recipe.steps if step.stage == "graph" or step.prunes]
    entries = [(step.name, {key: value for key, value in step.options.items() if key != "recovery_epochs"}) for step in steps]
    return _graph(job, recipe.with_steps(entries, recipe.name), judged=False)


def answered(job: Job, recipe: Recipe) -> Graph:
    """The graph, and what every output loses on val on the target, paired with the original's answers."""
    return _graph(job, recipe, judged=True)


def is_exact(recipe: Recipe) -> bool:
    """Whether ``sized`` tells the true size: nothing is trained before the last cut, nor with quantizers."""
    steps = recipe.torch_steps()
    cuts = [place for place, step in enumerate(steps) if step.prunes]
    before = steps[: cuts[-1]] if cuts else ()
    trained = [step for step in before if not step.prunes]
    again = [step for step in steps if step.options.get("recovery_epochs")]
    return not (trained or again or any(step.trains_quantized for step in steps))


def trains(recipe: Recipe) -> bool:
    """Whether a step learns: without one, sizing is all the work there is."""
    return any(not step.prunes or step.options.get("recovery_epochs") for step in recipe.torch_steps())


def times(recipe: Recipe) -> bool:
    """Whether a step times something on this machine, which nothing may disturb."""

    def is_timed(step: Step) -> bool:
        precision = step.options.get("precision")
        words = precision.values() if isinstance(precision, Mapping) else [precision]
        return "auto" in words or any(key.startswith("latency") and value is not None for key, value in step.options.items())

    return any(map(is_timed, recipe.steps))


def split_of(job: Job) -> str:
    """The split that trials are judged on: never test; "" where there is none."""
    return answers.decision_split(job.dataset)[0]


def original(job: Job, exported: Artifact) -> Answers:
    """The original's answers to the rows that decide."""
    return answers.original_answers(job, exported, split_of(job), limit=DECISION_ROWS)


def _graph(job: Job, recipe: Recipe, *, judged: bool) -> Graph:
    target, opset = next(iter(recipe.targets)), stages.opset(recipe)
    exported = stages.export(job, opset=opset)
    shaped = torch_steps.shape(job, exported, recipe, opset=opset)
    prepared = preparing.prepare(shaped.job, shaped.exported, recipe, target, start=shaped.graph)
    partial = prepared.quantized(shaped.job, prepared.start, (job, exported))
    graph = partial.quantized
    losses = {}
    if judged:
        candidate = Candidate(f"{target} int8", "bundle", partial.deployment)
        after = answers.answers(partial.job, candidate, graph.folder.name, split_of(job), limit=DECISION_ROWS)
        losses = answers.lost(job, original(job, exported), after)
    shown = {name: OutputLoss(m.value, m.low, m.high, m.unit, m.n, m.per_point) for name, m in losses.items()}
    return Graph(partial.deployment, graph.folder.name, size_bytes(graph.main) / 2**20, shown)


def seeded(job: Job, seed: int) -> Job:
    """The run with another seed, and a list of stages of its own."""
    return replace(job, seed=seed, made=[], reused=[])
