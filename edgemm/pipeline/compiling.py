"""From the float graph to what one target runs: quantized in its numerics, proved against the graph, tuned on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgemm.box.bundle.golden import Golden, stack, tolerance
from edgemm.box.bundle.golden import run as run_golden
from edgemm.box.measuring.candidate import Candidate
from edgemm.box.measuring.forms import compressed, precision_asked
from edgemm.box.measuring.predict import Predictor
from edgemm.box.measuring.tuning import tune
from edgemm.contracts import plugins
from edgemm.contracts.answers import Arrays
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.recipe import Recipe
from edgemm.contracts.report import ROUNDING
from edgemm.contracts.target import Target
from edgemm.contracts.task import scored_outputs
from edgemm.errors import ParityError
from edgemm.pipeline import answers
from edgemm.pipeline.auto_precision import decide
from edgemm.pipeline.budgets import guard, policy_of
from edgemm.pipeline.job import Job, samples
from edgemm.pipeline.part_quantized import Partial
from edgemm.pipeline.stages import quantize
from edgemm.store.artifact import Artifact


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
    """

    model: Artifact
    deployment: Deployment
    safe: Mapping[str, Any]
    table: Sequence[Mapping[str, Any]]
    rungs: Sequence[Mapping[str, Any]]
    kept_float: Sequence[str] = ()
    notes: Sequence[str] = ()
    guard: Sequence[Mapping[str, Any]] = ()
    precision: Sequence[Mapping[str, Any]] = ()

    @property
    def target(self) -> str:
        """Name of the target."""
        return self.deployment.target

    def candidate(self) -> Candidate:
        """This bundle part as something to measure; it is called int8 only where something of it is."""
        quantized = precision_asked(self.deployment).startswith("int8")
        return compressed(self.deployment, f"{self.target} {'int8' if quantized else 'compressed'}")


def compile_for(
    job: Job,
    exported: Artifact,
    recipe: Recipe,
    name: str,
    *,
    start: Artifact | None = None,
    original: tuple[Job, Artifact] | None = None,
    qat: Callable[[str], Artifact] | None = None,
    heaviest_cut: str = "",
) -> Compiled:
    """Quantize for a target, prove that it computes what the graph says, hold the accuracy budgets, choose runtime options by measurement.

    A branch whose INT8 the target computes wrongly is left in float there, and so is what a budget cannot bear; the result says so.

    Args:
        exported: The float graph, which everything is proved against.
        start: What the graph steps work on where it is another one: with the Q/DQ that ``qat`` trained.
        original: The run before the torch steps and its float graph, which accuracy is held against; without it this one.
        qat: Trains the model with quantization, by the step of a name, and returns the graph with Q/DQ; for a recipe's ``on_miss``.
        heaviest_cut: What the torch steps took most from, said where they alone cost more than a budget.

    Raises:
        ParityError: The target computes the graph wrongly, also with the guilty branch in float.
    """
    floats = Deployment(name, exported.main, dict(recipe.targets[name]))
    target = floats.plugin()
    forbid = forbidden(recipe)
    safe = target.choices(forbid=forbid)[0]
    decided = decide(job, exported, recipe.graph_steps(), floats, forbid=forbid, trained=start is not None)
    with Predictor() as predictor:

        def quantized(graph: Artifact) -> Partial:
            model = quantize(job, graph, decided.steps, name)
            return Partial(job, graph, model, floats.holding(model.main).running(safe), original or (job, exported), predictor)

        def retrained() -> Partial:
            assert qat is not None
            return _proved(quantized(qat(policy.on_miss)), exported)[0]

        partial, _, kept = _proved(quantized(start or exported), exported)
        policy = policy_of(recipe, partial)
        guarded = guard(partial, policy, retrained=retrained if qat else None, heaviest_cut=heaviest_cut)
        partial, rungs, more = _proved(guarded.partial, exported)
        limits = policy.limits if guarded.met else {}
        why = target.cannot_run()
        options, table = (safe, []) if why else _tuned(partial, exported, limits, forbid)
    deployment = partial.deployment.running(options)
    if options != safe:
        rungs = ladder(job, exported, partial.quantized, deployment, search=False)
    notes = [*decided.notes]
    notes += [f"{name}: branch '{branch}' stays in float, this target computes its INT8 wrongly." for branch in (*kept, *more)]
    notes += [f"{name}: {why} Accuracy was measured in ONNX Runtime on the same graph; latency is not known."] if why else []
    notes += [*guarded.notes, *(f"{name}: {_words(row['options'])}: {row['note']}" for row in table if row["note"])]
    return Compiled(partial.quantized, deployment, safe, table, rungs, [*kept, *more], notes, guarded.table, decided.table)


def _proved(partial: Partial, exported: Artifact) -> tuple[Partial, list[dict[str, Any]], list[str]]:
    """The graph with those branches back in float that the target computes wrongly in INT8, its ladder, and their names.

    Raises:
        ParityError: No branch can be named, or it is wrong in float too.
    """
    kept: list[str] = []
    while True:
        rungs = ladder(partial.job, exported, partial.quantized, partial.deployment)
        broken = next((rung for rung in rungs if not rung["ok"]), None)
        if broken is None:
            return partial, rungs, kept
        branch = (broken.get("culprit") or {}).get("branch")
        if branch is None or branch in kept or not partial.nodes(branch):
            raise _broken(partial.target, broken)
        kept.append(branch)
        partial = partial.holding(partial.graph(partial.nodes(branch)))


def forbidden(recipe: Recipe) -> frozenset[str]:
    """Float types that must not run: a branch that the recipe marks fp32 forbids the short ones, which hold for a whole graph."""
    precisions = [step.options.get("precision") for step in recipe.graph_steps()]
    words = {value for precision in precisions if isinstance(precision, Mapping) for value in precision.values()}
    return frozenset({"bf16", "fp16"} if "fp32" in words else ())


def ladder(job: Job, exported: Artifact, quantized: Artifact, deployment: Deployment, *, search: bool = True) -> list[dict[str, Any]]:
    """The parity ladder from the float graph to what the target computes, as plain rungs; a broken one names branch and node.

    Args:
        quantized: The graph that ``deployment`` runs.
        search: Whether to look for them, which opens the graph many times.
    """

    def rungs() -> list[dict[str, Any]]:
        from edgemm.graph import ladder

        target, options = deployment.plugin(), deployment.runtime_options
        with deployment.open() as session:
            climbed = ladder.check_graphs(
                exported.main, quantized.main, session, samples(job), card=job.card, target=deployment.target,
                reopen=(lambda path: target.open(path, **options)) if search else None,
            )  # fmt: skip
        return [rung.to_dict() for rung in climbed]

    facts = {
        "graph": exported.folder.name,
        "quantized": quantized.folder.name,
        "deployment": deployment.key(),
        "data": job.fingerprint,
        "seed": job.seed,
        "search": search,
    }
    name = f"parity {deployment.target}"
    return list(job.json(name, facts, rungs, steps=(), packages=("onnxruntime",), runs=[deployment], on_this_machine=True))


def _tuned(
    partial: Partial, exported: Artifact, limits: Mapping[str, float], forbid: frozenset[str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The fastest runtime options that keep the parity ladder and the accuracy, and the table behind the choice."""
    job, deployment = partial.job, partial.deployment

    def choice() -> dict[str, Any]:
        loses = _loses(partial, limits)

        def objection(options: dict[str, Any]) -> str:
            if options == deployment.runtime_options:
                return ""  # proved and guarded before
            rungs = ladder(job, exported, partial.quantized, deployment.running(options), search=False)
            broken = next((rung for rung in rungs if not rung["ok"]), None)
            return f"it breaks the parity ladder: {broken['note']}." if broken else loses(options)

        tuned = tune(deployment, samples(job, 1)[0], forbid=forbid, objection=objection, progress=job.show)
        return {"options": tuned.options, "table": [asdict(row) for row in tuned.table]}

    facts = {
        "graph": exported.folder.name,
        "model": partial.quantized.folder.name,
        "deployment": deployment.key(),
        "forbid": sorted(forbid),
        "limits": dict(limits),
        "original": partial.original[0].identity if limits else None,
        "data": job.fingerprint,
    }
    # limits hold accuracy against the original, a torch model perhaps
    targets = ["torch"] if limits else []
    chosen = job.json(f"tune {deployment.target}", facts, choice, steps=(), targets=targets, runs=[deployment], on_this_machine=True)
    return chosen["options"], chosen["table"]


def _loses(partial: Partial, limits: Mapping[str, float]) -> Callable[[dict[str, Any]], str]:
    """What runtime options lose on val, in words: against the safe ones, where the interval shows it, or beyond ``limits``.

    Nothing ("") where val has no rows, or no output has a metric that can be lost.
    """
    job = partial.job
    if not partial.split or not scored_outputs(job.card):
        return lambda options: ""

    def loses(options: dict[str, Any]) -> str:
        lost = answers.lost(job, partial.answers(), partial.answers(options=options))
        if any(score.low is not None and score.low > 0 for score in lost.values()):
            return "its accuracy does not hold."
        over = limits and any(m.value > limits.get(name, m.value) + ROUNDING for name, m in partial.lost(options=options).items())
        return "its accuracy does not hold." if over else ""

    return loses


def _broken(target: str, rung: Mapping[str, Any]) -> ParityError:
    culprit = rung.get("culprit") or {}
    where = f"node '{culprit['node']}' of branch '{culprit['branch']}'" if culprit else "no single node could be named"
    return ParityError(
        f"{target} computes the graph wrongly: {rung['name']}.",
        why=f"{rung.get('note') or 'outputs differ'}; {where}.",
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
            with part.deployment.running(part.safe).open() as session:
                others = [run_golden(session, feed)]
            if part.deployment.plugin().cannot_run():  # on its box another form may turn out faster: one without quantizers too
                others.append(floats)
            allowed[part.target] = tolerance(outputs[part.target], floats, precision, others=others)
        return Golden(feed.inputs, outputs, allowed).arrays()

    facts = {
        "graph": exported.folder.name,
        "targets": [[part.deployment.key(), part.model.folder.name, dict(part.safe)] for part in compiled],
        "data": job.fingerprint,
    }
    deployments = [part.deployment for part in compiled]
    return Golden.of_arrays(job.arrays("golden", facts, arrays, steps=(), runs=deployments, on_this_machine=True))
