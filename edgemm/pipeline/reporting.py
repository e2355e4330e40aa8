"""The last stages: what every form of the model costs and answers on this machine, and the report of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.box.devices.environment import environment
from edgemm.box.measuring.busy import busy
from edgemm.box.measuring.measurements import about, drawn, ratios, size_bytes
from edgemm.box.measuring.measurements import measurements as timing_measurements
from edgemm.box.measuring.probes.accuracy import Accuracy, Answers
from edgemm.box.measuring.schedule import Candidate, time_candidates
from edgemm.contracts import plugins
from edgemm.contracts import task as tasks
from edgemm.contracts.recipe import Recipe
from edgemm.contracts.report import Measurement, Report, Verdict, judge
from edgemm.contracts.target import Target
from edgemm.data import scoring
from edgemm.pipeline import answers as answering
from edgemm.pipeline.compiling import Compiled
from edgemm.pipeline.ledger import Ledger
from edgemm.pipeline.stages import Job, read_reference, samples
from edgemm.pipeline.torch_steps import Shaped
from edgemm.store.artifact import Artifact, write_json


def benchmark(
    job: Job,
    exported: Artifact,
    reference: Artifact | None,
    compiled: Sequence[Compiled],
    recipe: Recipe,
    shaped: Shaped,
    known: Ledger,
) -> Report:
    """Time all forms of the model against each other, score their answers, and hold the result against the budgets.

    Measured: the original, and for each target its float graph in f32, that graph as the runtime runs it by itself, and the compressed
    one.

    Args:
        job, exported: The original's.
        shaped: The run after the torch steps.
        known: What was found out about missing inputs.
    """
    forms = _forms(job, exported, compiled)
    timed, compared, notes = _timings(job, forms)
    found = [m for row in timed.values() for m in row["measurements"]]
    answers: dict[str, Mapping[str, np.ndarray]] = {}
    truth: Mapping[str, np.ndarray] = {}
    if reference is not None:
        told = read_reference(reference)
        original, truth = told.predictions, told.truth
        answers["original"] = original
        for candidate, artifact in forms:
            if candidate.subject != "original":
                answers[candidate.name] = predictions(job, candidate, artifact)[0]
            found += _scores(job, candidate, answers.get(candidate.name, original), truth, original, timed[candidate.name]["precision"])
    after = answers.get(compiled[0].candidate().name, {}) if compiled else {}
    budgets = judge(recipe.budgets, found, recipe.targets, _guarded(job))
    slow = [note for part in compiled for note in _not_faster(part, compared, recipe)]
    details = {
        "title": title(job.card.path),
        "recipe": recipe.name,
        "notes": [*notes, *shaped.notes, *_notes(job, compiled, recipe), *_limits(budgets, found, recipe), *slow, *known.warnings],
        "applied": list(shaped.applied),
        "branches": [row for part in compiled[:1] for row in _branches(shaped.job, part, exported)],
        "ratios": compared,
        "latency_samples_ms": {name: row["samples_ms"] for name, row in timed.items()},
        "confusion": scoring.confusions(job.card.outputs, truth, answers.get("original", {}), after),
        "ledger": dict(known.details),
        "guard": [dict(row) for part in compiled for row in part.guard],
        "precision": [dict(row) for part in compiled for row in part.precision],
        "runtime_options": [
            {"target": part.target, "taken": row["options"] == part.options, **row} for part in compiled for row in part.table
        ],
        "parity": _parity(shaped.exported, compiled),
        "layers": timed[compiled[0].candidate().name]["layers"] if compiled else [],
        "steps": [{"name": s.name, "seconds": round(s.seconds, 2), "reused": s.name in job.reused} for s in job.progress.finished],
    }
    versions = {k: v for part in compiled for k, v in plugins.find(Target, part.target)(**part.given).versions().items()}
    facts = {**environment(versions), "recipe": recipe.name, "recipe_sha256": recipe.sha256}
    return Report(facts, [*found, *known.measurements], budgets, details)


def _forms(job: Job, exported: Artifact, compiled: Sequence[Compiled]) -> list[tuple[Candidate, Artifact]]:
    """Everything to measure, with the artifact that it is made of."""
    if job.card.is_onnx or job.card.path is None:
        original = Candidate("original", "original", "onnxruntime", exported.main, {}, precision_asked="f32")
    else:
        original = Candidate("original", "original", "torch", job.card.path, {}, precision_asked="f32")
    forms = [(original, exported)]
    for part in compiled:
        target = plugins.find(Target, part.target)(**part.given)
        if target.cannot_run():
            forms.append((part.candidate(), part.model))
            continue
        for subject, options, asked in (("float", target.float_options(), "f32"), ("default", target.default_options(), "default")):
            if subject == "default" and part.target == "onnxruntime":
                continue  # its own default is f32
            name = f"{part.target} {subject}"
            form = Candidate(
                name, subject, part.target, exported.main, options, precision_asked=asked, target_options=_unforced(part.given)
            )
            forms.append((form, exported))
        forms.append((part.candidate(), part.model))
    return forms


def _unforced(given: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's target options without its choice of precision: the baselines run in the precision they are named after."""
    return {key: value for key, value in given.items() if key != "precision"}


def _timings(job: Job, forms: Sequence[tuple[Candidate, Artifact]]) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]], list[str]]:
    """Per candidate: measurements, the precision that ran, layers, samples for drawing; the ratios between candidates; notes."""

    def make(scratch: Path) -> Path:
        candidates = [candidate for candidate, _ in forms if "stand_in" not in candidate.options]
        timings = time_candidates(candidates, samples(job, 1)[0], launches=1, seconds=2.0, warmup_s=0.5, progress=job.show)
        rows = {}
        for candidate in candidates:
            timing = timings[candidate.name].require()
            rows[candidate.name] = {
                "measurements": [asdict(m) for m in timing_measurements(candidate, timing)],
                "precision": timing.precision_ran,
                "layers": [asdict(layer) for layer in timing.layers],
                "samples_ms": drawn(timing),
            }
        rows |= {candidate.name: _untimed(candidate) for candidate, _ in forms if candidate.name not in rows}
        path = scratch / "timings.json"
        write_json(path, {"rows": rows, "ratios": list(ratios(candidates, timings)), "notes": busy(job.load_before)})
        return path

    inputs = {
        "model": job.identity,
        "forms": [
            [c.name, c.subject, c.target, a.folder.name, dict(c.options), dict(c.target_options), c.precision_asked] for c, a in forms
        ],
        "data": job.fingerprint,
    }
    versions = {name for c, _ in forms for name in plugins.find(Target, c.target)(**c.target_options).versions()}
    targets = {c.target for c, _ in forms}
    made = job.stage("benchmark", inputs, make, steps=(), targets=targets, packages=versions, on_this_machine=True)
    told = json.loads(made.main.read_text(encoding="utf-8"))
    for row in told["rows"].values():
        row["measurements"] = [Measurement(**m) for m in row["measurements"]]
    return told["rows"], told["ratios"], told["notes"]


def _untimed(candidate: Candidate) -> dict[str, Any]:
    """The row of a form that cannot run here: its size, and the precision that its stand-in computes."""
    with plugins.find(Target, candidate.target)(**candidate.target_options).open(candidate.artifact, **candidate.options) as session:
        precision = session.precision()
    size = Measurement("size_mib", size_bytes(candidate.artifact) / 2**20, "MiB")
    return {
        "measurements": [asdict(m) for m in about(candidate, precision, [size])],
        "precision": precision,
        "layers": [],
        "samples_ms": [],
    }


def _scores(
    job: Job,
    candidate: Candidate,
    answers: Mapping[str, np.ndarray],
    truth: Mapping[str, np.ndarray],
    original: Mapping[str, np.ndarray],
    ran: str,
) -> list[Measurement]:
    """A candidate's metric on every head and, except for the original itself, what was lost."""
    before = {} if candidate.subject == "original" else original
    found = Accuracy().summarise([Answers(job.card.outputs, answers, truth, before)])
    about = {"subject": candidate.subject, "candidate": candidate.name, "target": candidate.target}
    return [Measurement(**{**asdict(m), **about, "precision_asked": candidate.precision_asked, "precision_ran": ran}) for m in found]


def _guarded(job: Job) -> list[str]:
    """Outputs with a metric that can be lost."""
    return tasks.scored_outputs(job.card)


def _parity(exported: Artifact, compiled: Sequence[Compiled]) -> list[Any]:
    first = exported.sibling("parity.json")
    rungs = [json.loads(first.read_text(encoding="utf-8"))] if first.is_file() else []
    return rungs + [dict(rung) for part in compiled for rung in part.rungs]


def _notes(job: Job, compiled: Sequence[Compiled], recipe: Recipe) -> list[str]:
    notes = [*recipe.notes(job.card), *(note for part in compiled for note in part.notes)]
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


def _limits(budgets: Sequence[Verdict], found: Sequence[Measurement], recipe: Recipe) -> list[str]:
    """For each loss in a unit of its own under a bare accuracy budget: what its points are in that unit."""
    given = recipe.budgets.get("accuracy_drop_points")
    if given is None or isinstance(given, Mapping):
        return []
    scaled = {m.output for m in found if m.name == "accuracy_drop_points" and m.per_point not in (None, 1.0)}
    rows = {v.output: v for v in budgets if v.name == "accuracy_drop_points" and v.output in scaled and v.value is not None}
    words = {m.output: tasks.guarded_metrics()[m.name].lower() for m in found if m.name in tasks.guarded_metrics()}
    return [
        f"Of '{name}' one point is a hundredth of its labels' standard deviation: its limit of {given:g} points is "
        f"{row.limit:g}{f' {row.unit}' if row.unit else ''} of {words.get(name, 'error')} on the test rows."
        for name, row in rows.items()
    ]


def _not_faster(part: Compiled, compared: Sequence[Mapping[str, Any]], recipe: Recipe) -> list[str]:
    """Advice where compressing gained no speed over what the runtime does by itself; none where the timing was disturbed."""
    default = "float" if part.target == "onnxruntime" else "default"  # f32 is its default
    pair = (part.candidate().name, f"{part.target} {default}")
    row = next((row for row in compared if (row["candidate"], row["baseline"]) == pair and not row["disturbed"]), None)
    if row is None or row["verdict"] == "faster":
        return []
    word = "slower" if row["verdict"] == "slower" else "not shown to be faster"
    asked = [step.options.get("precision") for step in recipe.graph_steps()]
    auto = any("auto" in (given.values() if isinstance(given, Mapping) else [given]) for given in asked)
    advice = "" if auto else "write `precision: auto` under quantize (as recipe latency-first does), or "
    times = f"{1 / row['value']:.2f}x its speed"
    return [
        f"{part.target}: the compressed model is {word} than what {part.target} runs by itself ({times}): {advice}keep it for its size."
    ]


def _branches(job: Job, part: Compiled, original: Artifact) -> list[dict[str, Any]]:
    """Per branch: parameters, MACs and size before and after, what it ran in, its share of the layers' time, its quantizing error."""
    target = plugins.find(Target, part.target)(**part.given)

    def make(scratch: Path) -> Path:
        from edgemm.pipeline.per_branch import take_apart

        feed = samples(job, 1)[0]
        with target.open(part.model.main, **part.options, **target.profile_options()) as session:
            rows = take_apart(part.model.main, job.card, session, feed)
        before = take_apart(original.main, job.card, feed=feed)
        path = scratch / "branches.json"
        write_json(path, {"before": [row.to_dict() for row in before], "after": [row.to_dict() for row in rows]})
        return path

    inputs = {
        "model": part.model.folder.name,
        "original": original.folder.name,
        "target": [part.target, dict(part.given)],
        "options": dict(part.options),
    }
    packages = ("onnx", *target.versions())
    made = job.stage(f"branches {part.target}", inputs, make, steps=(), targets=[part.target], packages=packages, on_this_machine=True)
    ends = {branch: difference for rung in part.rungs for branch, difference in rung["branches"].items()}
    told = json.loads(made.main.read_text(encoding="utf-8"))
    before = {row["branch"]: row for row in told["before"]}
    return [_branch(before.get(row["branch"], row), row, ends.get(row["branch"], {}).get("sqnr_db")) for row in told["after"]]


def _branch(before: Mapping[str, Any], after: Mapping[str, Any], sqnr_db: float | None) -> dict[str, Any]:
    return {
        "branch": after["branch"],
        "precision": after["precision"],
        "parameters": {"before": before["parameters"], "after": after["parameters"]},
        "macs": {"before": before["macs"], "after": after["macs"]},
        "latency_share": after["latency_share"],
        "size_mib": {"before": before["size_bytes"]["fp32"] / 2**20, "after": after["stored_bytes"] / 2**20},
        "sqnr_db": sqnr_db,
    }


def predictions(job: Job, candidate: Candidate, artifact: Artifact) -> tuple[answering.Arrays, answering.Arrays]:
    """A candidate's answers on the test split and the truth, from a process of its own."""
    return answering.answers(job, candidate, artifact.folder.name)
