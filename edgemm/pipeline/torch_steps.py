"""The torch steps of a recipe, in order, each a cached stage: what comes out is a checkpoint, beside what the step found out."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgemm.contracts import card_file as cards
from edgemm.contracts import plugins
from edgemm.contracts.card import Card
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.recipe import Recipe, Step
from edgemm.contracts.report import Measurement
from edgemm.contracts.report_parts import AppliedStep
from edgemm.contracts.target import Target, needs_accelerator
from edgemm.data.in_memory import open_unlabeled
from edgemm.errors import Collector
from edgemm.pipeline import stages
from edgemm.pipeline.job import Job, applied_steps, samples
from edgemm.progress import Progress
from edgemm.store.artifact import Artifact, write_json
from edgemm.workshop.models.checkpoint.files import CARD
from edgemm.workshop.models.checkpoint.identity import identity

if TYPE_CHECKING:
    from edgemm.workshop.models.fused import FusedModel

LOADERS = ("torch", "transformers")
"""Distributions that build and load a model; what a step calls beside them, its file lists."""
QDQ = "qdq.onnx"
TRAINING = ("distill", "qat")
"""Steps that several processes can share."""
TIMING_SAMPLES = 16
"""Calibration samples where a model is only timed: its ranges do not matter."""


@dataclass(frozen=True)
class Shaped:
    """A run after its torch steps.

    Attributes:
        job: The run on the checkpoint that came out; the original's where a recipe has no torch step.
        exported: Its float graph.
        applied: The steps, as the report shows them.
        notes: What the steps had to say.
        graph: The Q/DQ graph of a step that trained one (``qat``); graph steps then start there.
    """

    job: Job
    exported: Artifact
    applied: Sequence[AppliedStep] = ()
    notes: Sequence[str] = ()
    graph: Artifact | None = None

    def heaviest_cut(self) -> str:
        """The branch and the layer that pruning took most from, by its own criterion, as a sentence; "" where nothing was pruned."""
        cuts = [step.facts["layers"] for step in self.applied if Step(step.step, {}, "torch").prunes]
        rows = [row for cut in cuts for row in cut]
        left = dict.fromkeys([row["branch"] for row in rows], 1.0)  # a later cut takes its share of what the earlier one left
        for cut in cuts:
            for branch in left:
                left[branch] *= 1 - sum(row["share_of_branch_lost"] for row in cut if row["branch"] == branch)
        branch = min(left, key=lambda name: left[name], default="")
        share = 1 - left.get(branch, 1.0)
        if not share:
            return ""
        worst = max((row for row in rows if row["branch"] == branch), key=lambda row: row["share_of_branch_lost"])
        before, after = worst["channels"]
        return (
            f"Pruning took most from branch '{branch}' ({share:.0%} of what its channels give by the criterion), "
            f"most of all from its layer '{worst['layer']}' ({before} -> {after} channels)."
        )


@dataclass
class _Told:
    """What a step says while it runs."""

    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def check(job: Job, recipe: Recipe) -> None:
    """Ask every step what cannot be, before any work is done: a wrong option of the last is told before hours of training for the first.

    A step's file may define ``check(ctx, **options)``; it gets every option, its default where the recipe does not name it.

    Raises:
        EdgemmError: One mistake.
        Mistakes: All of them.
    """
    from edgemm.contracts.step import Context

    mistakes = Collector()
    for step in recipe.steps:
        step_check = getattr(plugins.import_plugin("steps", step.name), "check", None)
        options = {option.name: option.default for option in plugins.options("steps", step.name).values()} | dict(step.options)
        for name in recipe.targets if step.stage == "graph" else list(recipe.targets)[:1]:
            numerics = plugins.load(Target, name).numerics
            context = Context(job.card, job.dataset, Path(), target=name, numerics=numerics, seed=job.seed)
            if step_check is not None:
                with mistakes.catch():
                    step_check(context, **options)
    mistakes.raise_if_any()


def check_model(job: Job, recipe: Recipe) -> None:
    """Ask a first step that looks at the model itself, before the original is exported: later steps see a model that is not there yet.

    A step's file may define ``check_model(model, ctx, **options)``.

    Raises:
        EdgemmError: What the step refuses.
    """
    from edgemm.contracts.step import Context
    from edgemm.workshop.models.checkpoint.loading import load_model

    for step in recipe.torch_steps()[:1]:
        if model_check := getattr(plugins.import_plugin("steps", step.name), "check_model", None):
            model_check(load_model(job.card, weights=False), Context(job.card, job.dataset, Path(), seed=job.seed), **step.options)


def shape(job: Job, exported: Artifact, recipe: Recipe, *, opset: int) -> Shaped:
    """Run the torch steps of a recipe one after the other, each on what the one before left, and export the result.

    Args:
        exported: The original's float graph: a model that nobody can export is not trained in vain.

    Raises:
        EdgemmError: What a step refuses or finds broken.
        ParityError: The graph of the result computes something else.
    """
    shaped = Shaped(job, exported)
    for number, step in enumerate(recipe.torch_steps(), 1):
        shaped = _after(shaped, job, recipe, step, number, opset)
    return replace(shaped, exported=stages.export(shaped.job, opset=opset)) if shaped.applied else shaped


def retrain(shaped: Shaped, job: Job, recipe: Recipe, name: str, *, opset: int) -> Artifact:
    """The graph with Q/DQ of one more step as it comes: what a recipe's ``on_miss: qat`` falls back on.

    Args:
        name: The step; one that ``trains_quantized``.
    """
    graph = _after(shaped, job, recipe, Step(name, {}, "torch"), len(shaped.applied) + 1, opset).graph
    assert graph is not None  # what such a step is for
    return graph


def _after(before: Shaped, job: Job, recipe: Recipe, step: Step, number: int, opset: int) -> Shaped:
    """The run after one more step, found in the cache or made."""

    def make(scratch: Path) -> Path:
        if job.processes > 1 and step.name in TRAINING:
            return _run_together(scratch, before.job, job, recipe, step, opset)
        return run(scratch, before.job, job, recipe, step, opset)

    target = next(iter(recipe.targets))
    measures = any(key.startswith("latency") and value is not None for key, value in step.options.items())
    facts = {
        "model": before.job.identity,
        "teacher": job.identity,
        "step": [step.name, dict(step.options)],
        "named": named(step, job.card),
        "target": [target, dict(recipe.targets[target])] if measures or plugins.is_own("steps", step.name) else None,
        "numerics": repr(plugins.load(Target, target).numerics),
        "timed_with": [[s.name, dict(s.options)] for s in recipe.graph_steps()] if measures else None,
        "data": job.fingerprint,
        "seed": job.seed,
        "opset": opset,
        **({"processes": job.processes} if job.processes > 1 and step.name in TRAINING else {}),
    }
    name = step.name if [s.name for s in recipe.torch_steps()].count(step.name) == 1 else f"{step.name} ({number})"
    artifact = job.stage(
        name,
        facts,
        make,
        steps=[step.name, *_restored(step, before.job.card), *(s.name for s in recipe.graph_steps() if measures)],
        targets=[target] if measures else [],  # of a target that times nothing, training knows the numerics alone
        packages=[*LOADERS, *plugins.packages("steps", step.name)],
        timed=measures,
        accelerated=measures and needs_accelerator(target, recipe.targets[target]),
    )
    outcome = json.loads(artifact.sibling("facts.json").read_text(encoding="utf-8"))
    after = replace(before.job, card=cards.load(artifact.main))
    graph = Artifact(artifact.sibling(QDQ), artifact.provenance) if artifact.sibling(QDQ).is_file() else None
    row = AppliedStep(step.name, dict(step.options), outcome["facts"])
    return Shaped(after, before.exported, [*before.applied, row], [*before.notes, *outcome["notes"]], graph)


def _restored(step: Step, card: Card) -> list[str]:
    """The steps that the models a step works with went through before: its own and another teacher's."""
    teacher = step.options.get("teacher")
    return [*applied_steps(card), *(applied_steps(cards.load(teacher)) if teacher else [])]


def named(step: Step, card: Card) -> dict[str, Any]:
    """What a step's options name beside the model and its data: another teacher, rows without labels. For keys.

    Raises:
        CardError, CheckpointError, DataError: It is not there.
    """
    identities: dict[str, Any] = {}
    if step.options.get("teacher"):
        identities["teacher"] = identity(cards.load(step.options["teacher"]))
    if step.options.get("unlabeled"):
        identities["unlabeled"] = open_unlabeled(step.options["unlabeled"], card).fingerprint()
    return identities


def _run_together(scratch: Path, current: Job, original: Job, recipe: Recipe, step: Step, opset: int) -> Path:
    """Run one step in several processes, of which the first writes."""
    from edgemm.pipeline import together

    arguments = {
        "scratch": str(scratch), "card": str(current.card.path), "original": str(original.card.path), "data": original.data,
        "recipe": recipe.plain(), "step": [step.name, dict(step.options)], "opset": opset, "seed": current.seed,
        "skip_bad_rows": current.skip_bad_rows,
    }  # fmt: skip
    together.run("step", arguments, original.processes, current.progress)
    return scratch / CARD


def run(scratch: Path, current: Job, original: Job, recipe: Recipe, step: Step, opset: int) -> Path:
    """Run one step and write its checkpoint, what it told, and the Q/DQ graph if it made one."""
    from edgemm.contracts.step import Context
    from edgemm.workshop.models.checkpoint.loading import load_model, write_model
    from edgemm.workshop.models.onnx_export import export_onnx

    outcome = _Told()
    model = load_model(current.card)
    with tempfile.TemporaryDirectory(prefix="edgemm-") as aside:
        context = Context(
            card=current.card,
            dataset=current.dataset,
            scratch=Path(aside),
            target=next(iter(recipe.targets)),
            numerics=plugins.load(Target, next(iter(recipe.targets))).numerics,
            seed=current.seed,
            progress=current.show,
            facts=outcome.facts,
            note=outcome.notes.append,
            teacher=load_model(original.card),
            measure=_timer(current, recipe, opset),
        )
        new_model = plugins.function("steps", step.name)(model, context, **step.options)
        floats = getattr(new_model, "float_model", None)  # a quantized model has one: its checkpoint
        if floats is not None:
            export_onnx(new_model, scratch / QDQ, opset=opset)
        write_model(floats or new_model, scratch, scratch)
    write_json(scratch / "facts.json", {"facts": outcome.facts, "notes": outcome.notes})
    return scratch / CARD


def _timer(job: Job, recipe: Recipe, opset: int) -> Callable[[FusedModel], list[Measurement]] | None:
    """Times a model as the recipe's first target would run it; None where that target cannot run here.

    The first model it is given runs beside every later one, round by round, and what a machine lost or gained in between is taken out: on
    a shared box the same graph took 0.35 ms, and 0.23 ms after a minute of training.
    """
    name, target_options = next(iter(recipe.targets.items()))
    target = plugins.find(Target, name)(**target_options)
    if target.cannot_run():
        return None
    first: list[tuple[Path, float]] = []

    def measure(model: FusedModel) -> list[Measurement]:
        from edgemm.box.measuring.measurements import measurements
        from edgemm.box.measuring.schedule import Candidate, time_candidates
        from edgemm.workshop.models.checkpoint.loading import save_model

        with tempfile.TemporaryDirectory(prefix="edgemm-") as aside:
            card = save_model(model, Path(aside) / "model")
            alone = replace(job, card=card, progress=Progress(), made=[], reused=[])
            exported = stages.export(alone, opset=opset)
            graph = stages.quantize(alone, exported, [quick(step) for step in recipe.graph_steps()], name)
            deployment = Deployment(name, graph.main, dict(target_options), target.choices()[0])
            candidate = Candidate("candidate", "bundle", deployment)
            beside = [replace(candidate, name="first", deployment=deployment.holding(path)) for path, _ in first]
            timed = time_candidates([candidate, *beside], samples(alone, 1)[0], launches=0, seconds=4.0, warmup_s=0.5)
            measured = measurements(candidate, timed["candidate"])
        if not first:
            first.append((graph.main, _p50_ms(measured)))
            return measured
        return as_before(measured, first[0][1] / _p50_ms(measurements(beside[0], timed["first"])))

    return measure


def as_before(found: Sequence[Measurement], pace: float) -> list[Measurement]:
    """Latencies as the machine would have shown them when it was ``pace`` times as slow as now; other measurements as they are."""

    def at(bound: float | None) -> float | None:
        return None if bound is None else bound * pace

    return [replace(m, value=m.value * pace, low=at(m.low), high=at(m.high)) if m.name.startswith("latency_") else m for m in found]


def _p50_ms(measurements: Sequence[Measurement]) -> float:
    return next(m.value for m in measurements if m.name == "latency_p50_ms")


def quick(step: Step) -> Step:
    """A graph step as cheap as it goes without changing what its result costs to run; its accuracy suffers."""
    options = dict(step.options)
    if step.quantizes and {"calibration_samples", "ranges"} <= plugins.options("steps", step.name).keys():
        options |= {"calibration_samples": TIMING_SAMPLES, "ranges": "minmax"}
    return replace(step, options=options)
