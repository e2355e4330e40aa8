"""From the float graph to what one target runs: quantized in its numerics, proved against the graph, tuned on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgemm.box.bundle.golden import Golden, stack, tolerance
from edgemm.box.bundle.golden import run as run_golden
from edgemm.box.measuring.candidate import Candidate
from edgemm.box.measuring.forms import compressed
from edgemm.box.measuring.statistics import RatioInterval
from edgemm.box.measuring.tuning import Raced, Tuned, race, settle
from edgemm.contracts import plugins
from edgemm.contracts.answers import Arrays
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.plain_values import read
from edgemm.contracts.recipe import SPEED, Recipe
from edgemm.contracts.report import ROUNDING, Measurement
from edgemm.contracts.report_parts import Attempt
from edgemm.contracts.rung import Rung
from edgemm.contracts.target import Target
from edgemm.contracts.task import scored_outputs
from edgemm.contracts.timing_parts import FrontendChoice, OptionsTried, PrecisionChoice
from edgemm.errors import ParityError
from edgemm.pipeline import answers, recalibrating, short_floats
from edgemm.pipeline.accuracy_policy import policy_of
from edgemm.pipeline.budgets import guard
from edgemm.pipeline.job import Job, samples
from edgemm.pipeline.part_quantized import Partial
from edgemm.pipeline.preparing import prepare
from edgemm.pipeline.stages import notes_of
from edgemm.store.artifact import Artifact

RUNG, COUNT, EXPECTED = "rung", "count", "expected/"
"""What is kept of a graph's meaning."""


@dataclass(frozen=True)
class Compiled:
    """What one target got.

    Attributes:
        model: The Q/DQ graph.
        deployment: How it runs: the target's options as the recipe has them, the runtime options chosen by measurement here.
        safe: Runtime options that apply on any machine.
        table: What was timed to choose the runtime options.
        rungs: The parity ladder of the graph with these options.
        kept_float: Branches left in float because this target computes them wrongly in INT8.
        guard: What was tried to keep the accuracy budgets.
        precision: What each branch took in each precision, where the recipe says ``auto``.
        frontends: What each form of an input's front-end took, where there are several.
        against: Time of a call over that of the float graph as the runtime takes it by itself; None where that was not asked or cannot be.
    """

    model: Artifact
    deployment: Deployment
    safe: Mapping[str, Any]
    table: Sequence[OptionsTried]
    rungs: Sequence[Rung]
    kept_float: Sequence[str] = ()
    notes: Sequence[str] = ()
    guard: Sequence[Attempt] = ()
    precision: Sequence[PrecisionChoice] = ()
    frontends: Sequence[FrontendChoice] = ()
    against: RatioInterval | None = None

    @property
    def target(self) -> str:
        """Name of the target."""
        return self.deployment.target

    @property
    def form(self) -> str:
        """``int8``, ``w8``, ``w4``: what something of it is in; ``compressed`` where nothing is."""
        words = self.deployment.plugin().describe(self.deployment.model).precision_words
        return words[0] if words else "compressed"

    def candidate(self) -> Candidate:
        """This bundle part as something to measure."""
        return compressed(self.deployment, f"{self.target} {self.form}")


def compile_for(
    job: Job,
    exported: Artifact,
    recipe: Recipe,
    name: str,
    *,
    start: Artifact | None = None,
    original: tuple[Job, Artifact] | None = None,
    retrain: Callable[[str], Artifact] | None = None,
    heaviest_cut: str = "",
) -> Compiled:
    """Quantize for a target, prove that it computes what the graph says, hold the accuracy budgets, choose runtime options by measurement.

    A branch whose INT8 the target computes wrongly is left in float there, and so is what a budget cannot bear; the result says so.

    Args:
        exported: The float graph, which everything is proved against.
        start: What the graph steps work on where it is another one: with the Q/DQ that a step trained.
        original: The run before the torch steps and its float graph, which accuracy is held against; without it this one.
        retrain: Trains the model with quantization, by the step of a name, and returns the graph with Q/DQ; for a recipe's ``on_miss``.
        heaviest_cut: What the torch steps took most from, said where they alone cost more than a budget.

    Raises:
        ParityError: The target computes the graph wrongly, also with the guilty branch in float.
    """
    accuracy_of = original or (job, exported)
    prepared = prepare(job, exported, recipe, name, start=start)
    plain, exported, safe, forbid = exported, prepared.exported, prepared.safe, prepared.forbid
    target, said = prepared.floats.plugin(), list[str]()
    with job.predictor:

        def quantized(graph: Artifact) -> Partial:
            partial = prepared.quantized(job, graph, accuracy_of)
            said.extend(f"{name}: {note}" for note in notes_of(partial.quantized))
            return partial

        def retrained() -> Partial:
            assert retrain is not None
            return _proved(quantized(prepared.fitted.apply(job, retrain(policy.on_miss))), exported)[0]

        partial, _, kept = _proved(quantized(prepared.start), exported)
        policy = policy_of(recipe, partial)
        guarded = guard(partial, policy, retrained=retrained if retrain else None, heaviest_cut=heaviest_cut)
        partial, rungs, more = _proved(guarded.partial, exported)
        calibrated = recalibrating.recalibrated(job, prepared.exported, partial.quantized, partial.deployment)
        if calibrated is not partial.quantized:
            partial = partial.holding(calibrated)
            rungs = ladder(job, exported, calibrated, partial.deployment, search=False)
        limits = policy.limits if guarded.met else {}
        why = target.cannot_run()
        reference = prepared.floats.holding(plain.main) if recipe.aim == SPEED else None
        tuned = Tuned(safe) if why or not recipe.tunes else _tuned(partial, exported, limits, forbid, reference)
    deployment = partial.deployment.running(tuned.options)
    if tuned.options != safe:
        rungs = ladder(job, exported, partial.quantized, deployment, search=False)
    notes = [*prepared.decided.notes, *dict.fromkeys(said)]
    notes += [f"{name}: branch '{branch}' stays in float, this target computes its {partial.form} wrongly." for branch in (*kept, *more)]
    notes += [f"{name}: {why} Accuracy was measured in ONNX Runtime on the same graph; latency is not known."] if why else []
    notes += (
        []
        if recipe.tunes
        else [f"{name}: nothing was timed to choose how it runs (tune: false), so INT8 need not pay; edgemm compile does."]
    )
    notes += [*guarded.notes, *(f"{name}: {_words(row.options)}: {row.note}" for row in tuned.table if row.note)]
    return Compiled(
        partial.quantized, deployment, safe, tuned.table, rungs, [*kept, *more], notes, guarded.table, prepared.decided.table,
        prepared.fitted.table, tuned.against,
    )  # fmt: skip


def _proved(partial: Partial, exported: Artifact) -> tuple[Partial, list[Rung], list[str]]:
    """The graph with those branches back in float that the target computes wrongly in INT8, its ladder, and their names.

    Raises:
        ParityError: No branch can be named, or it is wrong in float too.
    """
    kept: list[str] = []
    while True:
        rungs = ladder(partial.job, exported, partial.quantized, partial.deployment)
        broken = next((rung for rung in rungs if not rung.ok), None)
        if broken is None:
            return partial, rungs, kept
        branch = broken.culprit.branch if broken.culprit else None
        if branch is None or branch in kept or not partial.nodes(branch):
            raise _broken(partial.target, broken)
        kept.append(branch)
        partial = partial.holding(partial.graph(partial.nodes(branch)))


def ladder(job: Job, exported: Artifact, quantized: Artifact, deployment: Deployment, *, search: bool = True) -> list[Rung]:
    """The parity ladder from the float graph to what the target computes; a broken one names branch and node.

    Args:
        quantized: The graph that ``deployment`` runs.
        search: Whether to look for them, which opens the graph many times.
    """
    about = {"graph": exported.folder.name, "quantized": quantized.folder.name, "data": job.fingerprint, "seed": job.seed}

    def meaning() -> Arrays:
        from edgemm.graph import ladder

        meaning = ladder.meaning_of(exported.main, quantized.main, samples(job), card=job.card)
        rung = json.dumps(asdict(meaning.rung) if meaning.rung else None)
        expected = {f"{EXPECTED}{name}": array for name, array in meaning.expected.items()}
        return {RUNG: np.array(rung), COUNT: np.array(meaning.count), **expected}

    def rung() -> Rung:
        from edgemm.graph import ladder

        target, options = deployment.plugin(), deployment.runtime_options
        expected = {key.removeprefix(EXPECTED): array for key, array in known.items() if key.startswith(EXPECTED)}
        with deployment.open() as session:
            return ladder.check_target(
                ladder.Meaning(expected, int(known[COUNT]), first), quantized.main, session, samples(job), card=job.card,
                target=deployment.target, reopen=(lambda path: target.open(path, **options)) if search else None,
            )  # fmt: skip

    known = job.arrays("meaning", about, meaning, steps=(), targets=(), packages=("onnxruntime",), on_this_machine=True)
    noted = json.loads(str(known[RUNG]))
    first = read(Rung, noted) if noted else None
    facts = {**about, "deployment": deployment.key(), "search": search}
    name, packages = f"parity {deployment.target}", ("onnxruntime",)
    second = job.value(Rung, name, facts, rung, steps=(), packages=packages, runs=[deployment], on_this_machine=True)
    return [second] if first is None else [first, second]


def _tuned(
    partial: Partial, exported: Artifact, limits: Mapping[str, float], forbid: frozenset[str], reference: Deployment | None
) -> Tuned:
    """The fastest runtime options that keep the parity ladder and the accuracy, and the table behind the choice."""
    job, deployment = partial.job, partial.deployment
    loses = _loses(partial, limits)
    safe = deployment.runtime_options

    def raced() -> list[Raced]:
        return race(deployment, samples(job, 1)[0], forbid=forbid, with_unsafe=True, reference=reference, progress=job.show)

    def objection(options: dict[str, Any]) -> str:
        if options == deployment.runtime_options:
            return ""  # proved and guarded before
        rungs = ladder(job, exported, partial.quantized, deployment.running(options), search=False)
        broken = next((rung for rung in rungs if not rung.ok), None)
        if broken:
            return f"it breaks the parity ladder: {broken.note}."
        is_other = options.get("precision") != safe.get("precision")
        return loses(options) or (short_floats.unproved(partial, options) if is_other else "")

    facts = {
        "model": partial.quantized.folder.name,
        "deployment": deployment.key(),
        "forbid": sorted(forbid),
        "reference": [reference.key(), reference.model.parent.name] if reference else None,
        "data": job.fingerprint,
    }  # no budget: what was timed holds for all of them, and whose answers hold is asked of stages of their own
    table = job.value(list[Raced], f"tune {deployment.target}", facts, raced, steps=(), runs=[deployment], timed=True)
    return settle(deployment.target, table, objection)


def _loses(partial: Partial, limits: Mapping[str, float]) -> Callable[[dict[str, Any]], str]:
    """What runtime options lose on val, in words, where the interval shows it: against the safe ones, or beyond ``limits``.

    A row or two of a few hundred are noise, and would refuse half of all choices that lose nothing. Nothing ("") where val has no rows,
    or no output has a metric that can be lost.
    """
    job = partial.job
    if not partial.split or not scored_outputs(job.card):
        return lambda options: ""

    def loses(options: dict[str, Any]) -> str:
        lost = answers.lost(job, partial.answers(), partial.answers(options=options))
        if any(score.low is not None and score.low > 0 for score in lost.values()):
            return "its accuracy does not hold."
        held = partial.lost(options=options).items() if limits else ()
        return "its accuracy does not hold." if any(_exceeds(m, limits[name]) for name, m in held if name in limits) else ""

    return loses


def _exceeds(lost: Measurement, limit: float) -> bool:
    """Whether the rows show that more is lost."""
    return (lost.value if lost.low is None else lost.low) > limit + ROUNDING


def _broken(target: str, rung: Rung) -> ParityError:
    where = f"node '{rung.culprit.node}' of branch '{rung.culprit.branch}'" if rung.culprit else "no single node could be named"
    return ParityError(
        f"{target} computes the graph wrongly: {rung.name}.",
        why=f"{rung.note or 'outputs differ'}; {where}.",
        fix="keep that branch in fp32 under steps.quantize.precision, or choose another target; please report the model.",
    )


def _words(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in options.items()) or "its defaults"


def golden(job: Job, exported: Artifact, compiled: Sequence[Compiled], count: int = 4) -> Golden:
    """A few samples with every target's outputs, and how far another machine's may be off."""

    def arrays() -> Arrays:
        feed = Golden(stack(samples(job, count)))
        with plugins.load(Target, "onnxruntime").open(exported.main) as session:
            floats = run_golden(session, feed)
        outputs, allowed = {}, {}
        for part in compiled:
            with part.deployment.open() as session:
                outputs[part.target] = run_golden(session, feed)
                precision = session.precision()
            others = []
            if part.safe != part.deployment.runtime_options:
                with part.deployment.running(part.safe).open() as session:
                    others = [run_golden(session, feed)]
            if part.deployment.plugin().cannot_run():  # on its box another form may turn out faster: one without quantizers too
                others.append(floats)
            allowed[part.target] = tolerance(outputs[part.target], floats, precision, others=others, card=job.card)
        return Golden(feed.inputs, outputs, allowed).arrays()

    facts = {
        "graph": exported.folder.name,
        "targets": [[part.deployment.key(), part.model.folder.name, dict(part.safe)] for part in compiled],
        "data": job.fingerprint,
    }
    deployments = [part.deployment for part in compiled]
    return Golden.of_arrays(job.arrays("golden", facts, arrays, steps=(), runs=deployments, on_this_machine=True))
