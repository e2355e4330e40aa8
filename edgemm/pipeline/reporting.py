"""The last stages: what every form of the model costs and answers on this machine, and the report of it.

Forms, timing, scores and the report are ``box.measuring.benchmark``'s; what is added here only a run of ``compress`` knows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgemm.box.measuring import benchmark as measuring
from edgemm.box.measuring.benchmark_options import BenchmarkOptions
from edgemm.box.measuring.candidate import Candidate
from edgemm.box.measuring.disturbed import busy
from edgemm.box.measuring.findings import Findings
from edgemm.box.measuring.forms import baselines
from edgemm.box.measuring.scores import scored
from edgemm.box.measuring.timed import Timed, shown_by, untimed
from edgemm.contracts import task as tasks
from edgemm.contracts.answers import Answers
from edgemm.contracts.interval import show_interval
from edgemm.contracts.picture_parts import SamplePicture
from edgemm.contracts.plain_values import read
from edgemm.contracts.recipe import Recipe
from edgemm.contracts.report import Measurement, Report, Verdict, judge
from edgemm.contracts.report_parts import BranchSummary, StageRan
from edgemm.contracts.rung import Rung
from edgemm.contracts.timing_parts import Ratio
from edgemm.pipeline import answers as answering
from edgemm.pipeline import picturing, thresholds
from edgemm.pipeline.accuracy_policy import BUDGET
from edgemm.pipeline.compiling import Compiled
from edgemm.pipeline.gates import Fitted
from edgemm.pipeline.job import Job, samples
from edgemm.pipeline.ledger import Ledger
from edgemm.pipeline.per_branch import BranchRow
from edgemm.pipeline.torch_steps import Shaped
from edgemm.store.artifact import Artifact

QUICK = BenchmarkOptions(rounds=12, seconds=2.0, warmup_s=0.5, launches=1)
"""How a run of ``compress`` times: enough to say how large a gain is, not to prove a small one; ``edgemm benchmark`` does that."""


def benchmark(
    job: Job,
    exported: Artifact,
    reference: Artifact | None,
    compiled: Sequence[Compiled],
    recipe: Recipe,
    shaped: Shaped,
    known: Ledger,
    gates: Fitted,
) -> Report:
    """Time all forms of the model against each other, score their answers, and hold the result against the budgets.

    Measured: the original, and for each target its float graph in f32, that graph as the runtime runs it by itself, and the compressed
    one.

    Args:
        job, exported: The original's.
        shaped: The run after the torch steps.
        known: What was found out about missing inputs.
        gates: And about branches that run only where they can change the answer.
    """
    forms = forms_of(job, exported, compiled)
    timing = _timed(job, forms)
    timed = timing.timed
    findings = [_scores(job, forms, timed, reference)] if reference is not None else []
    measured = [*timed.measurements(), *(measurement for part in findings for measurement in part.measurements)]
    verdicts = judge(recipe.budgets, measured, recipe.targets, tasks.scored_outputs(job.card))
    slow = [note for form in forms for note in _not_faster(form, timed.ratios, recipe)]
    notes = [
        *timing.notes, *timed.warnings, *shaped.notes, *_notes(job, compiled, recipe),
        *_limits(verdicts, measured, recipe), *_unguarded(measured, recipe), *slow,
    ]  # fmt: skip
    notes += thresholds.notes(job, exported, shaped.job, compiled)
    notes += gates.notes
    details = {
        "title": title(job.card.path),
        "recipe": recipe.name,
        "applied": shaped.applied,
        "branches": [row for part in compiled[:1] for row in _branches(shaped.job, part, exported)],
        "ledger": known.details,
        "calibration": known.calibration,
        "gates": list(gates.found),
        "guard": [row for part in compiled for row in part.guard],
        "precision": [row for part in compiled for row in part.precision],
        "frontends": [row for part in compiled for row in part.frontends],
        "runtime_options": [row for part in compiled for row in part.table],
        "parity": _parity(shaped.exported, compiled),
        "steps": [StageRan(s.name, round(s.seconds, 2), reused=s.name in job.reused) for s in job.progress.finished],
    }
    own = Findings(known.measurements, details, [*notes, *known.warnings])
    report = measuring.assemble([form.candidate for form in forms], timed, [*findings, own])
    environment = {**report.environment, "recipe": recipe.name, "recipe_sha256": recipe.sha256}
    return replace(report, environment=environment, budgets=verdicts)


@dataclass(frozen=True)
class Form:
    """One thing to measure.

    Attributes:
        made_of: The artifact behind it.
        against: Name of the form that shows what its runtime does by itself; "" where it is not to be held against one.
    """

    candidate: Candidate
    made_of: Artifact
    against: str = ""


def forms_of(job: Job, exported: Artifact, compiled: Sequence[Compiled]) -> list[Form]:
    """Everything to measure: the original, and for each target that can run here the baselines, and what it got."""
    forms = [Form(answering.original_form(job, exported), exported)]
    for part in compiled:
        floats = [] if part.deployment.plugin().cannot_run() else baselines(part.deployment.holding(exported.main))
        forms += [Form(candidate, exported) for candidate in floats]
        forms.append(Form(part.candidate(), part.model, floats[-1].name if floats else ""))
    return forms


@dataclass(frozen=True)
class _Timing:
    """What the forms showed, and a note where the machine was busy when the run began."""

    timed: Timed
    notes: list[str]


def _timed(job: Job, forms: Sequence[Form]) -> _Timing:
    able = [form.candidate for form in forms if "stand_in" not in form.candidate.deployment.runtime_options]
    waiting = [form.candidate for form in forms if form.candidate not in able]

    def shown() -> _Timing:
        job.predictor.release()  # what is timed has the memory to itself
        timings = measuring.timing(able, samples(job, 1)[0], QUICK, job.progress)
        for timing in timings.values():
            timing.require()
        timed = shown_by(able, timings)
        whole = replace(timed, forms={**timed.forms, **{candidate.name: untimed(candidate) for candidate in waiting}})
        return _Timing(whole, busy(job.load_before))

    facts = {
        "model": job.identity,
        "forms": [
            [form.candidate.name, form.candidate.subject, form.made_of.folder.name, form.candidate.deployment.key(),
             form.candidate.precision_asked]
            for form in forms
        ],
        "data": job.fingerprint,
    }  # fmt: skip
    runs = [form.candidate.deployment for form in forms]
    return job.value(_Timing, "benchmark", facts, shown, steps=(), runs=runs, timed=True)


def _scores(job: Job, forms: Sequence[Form], timed: Timed, reference: Artifact) -> Findings:
    """Every form's metrics and what it lost against the original, whose answers are known."""
    original = Answers.read(reference.main)
    answers = {
        form.candidate.name: original
        if form.candidate.subject == "original"
        else Answers(answering.answers(job, form.candidate, form.made_of.folder.name).predictions, original.truth)
        for form in forms
    }
    findings = scored(job.card, [form.candidate for form in forms], timed.precisions(), answers, original.predictions)
    bundle = next((form for form in forms if form.candidate.subject == "bundle"), None)
    pictures = _pictures(job, original, bundle, answers) if bundle else {}
    return replace(findings, details={**findings.details, "pictures": pictures})


def _pictures(job: Job, original: Answers, bundle: Form, answers: Mapping[str, Answers]) -> dict[str, list[SamplePicture]]:
    """Some of the test rows, as the first target answers them beside the original."""

    def drawn() -> dict[str, list[SamplePicture]]:
        return picturing.pictures(job, original.truth, {"before": original, "after": answers[bundle.candidate.name]})

    facts = {
        "model": job.identity,
        "bundle": bundle.made_of.folder.name,
        "deployment": bundle.candidate.deployment.key(),
        "data": job.fingerprint,
        "skip_bad_rows": job.skip_bad_rows,
    }
    if not any("frame" in output.options for output in job.card.outputs.values()):
        return {}
    name, kind = f"pictures {bundle.candidate.target}", dict[str, list[SamplePicture]]
    return job.value(kind, name, facts, drawn, steps=(), runs=[bundle.candidate.deployment], on_this_machine=True)


def _parity(exported: Artifact, compiled: Sequence[Compiled]) -> list[Rung]:
    first = exported.sibling("parity.json")
    rungs = [read(Rung, json.loads(first.read_text(encoding="utf-8")))] if first.is_file() else []
    return rungs + [rung for part in compiled for rung in part.rungs]


def _notes(job: Job, compiled: Sequence[Compiled], recipe: Recipe) -> list[str]:
    notes = [*job.notes, *recipe.notes(job.card), *(note for part in compiled for note in part.notes)]
    if job.data is None:
        notes.append("No data was given: calibration and parity used synthetic samples, accuracy is not known.")
    elif job.dataset.bad_rows:
        rows = job.dataset.bad_rows
        notes.append(f"{len(rows)} rows could not be read and were left out, the first: {rows[0]}")
    return notes


def title(path: Path | None) -> str:
    """What a report calls a model: its card's folder, or the card itself where it has a name of its own."""
    if path is None:
        return "model"
    return path.resolve().parent.name if path.stem == "model" else path.stem


def _limits(budgets: Sequence[Verdict], measured: Sequence[Measurement], recipe: Recipe) -> list[str]:
    """For each loss in a unit of its own under a bare accuracy budget: what its points are in that unit."""
    budget = recipe.budgets.get("accuracy_drop_points")
    if budget is None or isinstance(budget, Mapping):
        return []
    scaled = {m.output for m in measured if m.name == "accuracy_drop_points" and m.per_point not in (None, 1.0)}
    rows = {v.output: v for v in budgets if v.name == "accuracy_drop_points" and v.output in scaled and v.value is not None}
    words = {m.output: tasks.guarded_metrics()[m.name].lower() for m in measured if m.name in tasks.guarded_metrics()}
    return [
        f"Of '{name}' one point is a hundredth of its labels' standard deviation: its limit of {budget:g} points is "
        f"{row.limit:g}{f' {row.unit}' if row.unit else ''} of {words.get(name, 'error')} on the test rows."
        for name, row in rows.items()
    ]


def _unguarded(measured: Sequence[Measurement], recipe: Recipe) -> list[str]:
    """A note for each loss that is proved to be above a point, where no budget guards accuracy."""
    lossy = [m for m in measured if m.name == BUDGET and m.subject == "bundle" and m.low is not None and m.low > (m.per_point or 1.0)]
    return [
        f"{m.target}: the compressed model lost {m.value:.3g} {m.unit} {show_interval(m.low, m.high)} of '{m.output}', and the recipe "
        f"has no accuracy budget: with budgets: {{{BUDGET}: 1}} what harms goes back to float."
        for m in (lossy if BUDGET not in recipe.budgets else [])
    ]


def _not_faster(form: Form, compared: Sequence[Ratio], recipe: Recipe) -> list[str]:
    """Advice where compressing gained no speed over what the runtime does by itself; none where the timing was disturbed."""
    pair, target = (form.candidate.name, form.against), form.candidate.target
    row = next((row for row in compared if (row.candidate, row.baseline) == pair and not row.disturbed), None)
    if row is None or row.verdict == "faster":
        return []
    word = "slower" if row.verdict == "slower" else "not shown to be faster"
    precisions = [step.options.get("precision") for step in recipe.graph_steps()]
    auto = any("auto" in (precision.values() if isinstance(precision, Mapping) else [precision]) for precision in precisions)
    advice = "" if auto else "write `precision: auto` under quantize (as recipe latency-first does), or "
    times = f"{1 / row.value:.2f}x its speed"
    return [f"{target}: the compressed model is {word} than what {target} runs by itself ({times}): {advice}keep it for its size."]


def _branches(job: Job, part: Compiled, original: Artifact) -> list[BranchSummary]:
    """Per branch: parameters, MACs and size before and after, what it ran in, its share of the layers' time, its quantizing error."""
    deployment = part.deployment

    def rows() -> dict[str, list[BranchRow]]:
        from edgemm.pipeline.per_branch import take_apart

        feed = samples(job, 1)[0]
        with deployment.open(**deployment.plugin().profile_options()) as session:
            after = take_apart(part.model.main, job.card, session, feed)
        before = take_apart(original.main, job.card, feed=feed)
        return {"before": before, "after": after}

    facts = {"model": part.model.folder.name, "original": original.folder.name, "deployment": deployment.key()}
    name, kind = f"branches {part.target}", dict[str, list[BranchRow]]
    sides = job.value(kind, name, facts, rows, steps=(), packages=("onnx",), runs=[deployment], timed=True)
    ends = {branch: difference.sqnr_db for rung in part.rungs for branch, difference in rung.branches.items()}
    before = {row.branch: row for row in sides["before"]}
    return [_branch(before.get(row.branch, row), row, ends.get(row.branch, math.nan)) for row in sides["after"]]


def _branch(before: BranchRow, after: BranchRow, sqnr_db: float) -> BranchSummary:
    return BranchSummary(
        after.branch,
        after.precision,
        {"before": before.parameters, "after": after.parameters},
        {"before": before.macs, "after": after.macs},
        after.latency_share,
        {"before": before.size_bytes["fp32"] / 2**20, "after": after.stored_bytes / 2**20},
        sqnr_db if math.isfinite(sqnr_db) else None,
    )
