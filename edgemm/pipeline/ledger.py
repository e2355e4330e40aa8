"""The modality ledger: how good every head is with each subset of the inputs, before and after compression, and what each input adds.

Before: the original's float graph. After: the compressed graph, on its target. Both in parts; what is missing is replaced by the
stand-ins of the same model, as the bundle's runtime does it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.box.bundle import parts as splits
from edgemm.box.bundle.parts import SplitFiles
from edgemm.box.measuring.answers import score
from edgemm.box.measuring.candidate import Candidate
from edgemm.box.measuring.subsets import answer_subsets
from edgemm.contracts import onnx_file
from edgemm.contracts import task as tasks
from edgemm.contracts.answers import Answers, Arrays
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.interval import Interval
from edgemm.contracts.report import Measurement
from edgemm.contracts.report_parts import Calibration, Contribution, Listening
from edgemm.contracts.task import Statistics
from edgemm.data.shares import MOST_INPUTS
from edgemm.errors import EdgemmError
from edgemm.pipeline import framewise, standins, subset_findings
from edgemm.pipeline.compiling import Compiled
from edgemm.pipeline.job import Job
from edgemm.store.artifact import Artifact

ROWS = 2000
"""Rows of test behind the ledger (fewer for a large model); of a larger test a seeded choice. A contribution is then known to 2 points."""
ALL_SUBSETS = MOST_INPUTS
"""With more inputs only each alone, all but each, and the whole are measured."""
DEAF_SHARE = 0.5
"""A model that kept less than this share of what an input added has stopped listening to it."""
STORED_MIB = 64
"""A graph larger than this is not stored in parts too: its bundle would be twice as large. It is still measured."""

ELSEWHERE = ", in ONNX Runtime"
PRECISION = "precision"
NOTHING = 1e-3  # of what an input added before: rounding

Subset = tuple[str, ...]


@dataclass(frozen=True)
class Ledger:
    """What is known about missing inputs.

    Attributes:
        measurements: Each head's metric for every subset, ``modalities`` set; subjects original and bundle.
        details: ``Details.ledger`` of the report; None where nothing was measured.
        warnings: Sentences for the user.
        files: What belongs into the bundle: ``standins.npz``, ``split/...`` and ``targets/<t>/split/...``.
        calibration: Of a late fusion, each subset of its members before and after.
        forms: Target -> its graph in parts; {} where it cannot be split.
    """

    measurements: Sequence[Measurement] = ()
    details: Listening | None = None
    warnings: Sequence[str] = ()
    files: Mapping[str, Path] = field(default_factory=dict)
    calibration: Sequence[Calibration] = ()
    forms: Mapping[str, Form] = field(default_factory=dict)

    def manifest(self) -> list[dict[str, Any]]:
        """For the bundle's manifest: the accuracy to expect of each target, output and subset of the inputs."""
        kept = ("name", "target", "output", "modalities", "value", "unit", "better", "low", "high", "n", "precision_ran")
        return [{key: asdict(m)[key] for key in kept} for m in self.measurements if m.subject == "bundle"]


@dataclass(frozen=True)
class Answered:
    """One form of the model: its answers to every subset."""

    candidate: Candidate
    precision: str
    subsets: Mapping[Subset, Answers]
    rows: int

    @property
    def truth(self) -> Arrays:
        """Beside the answers to the whole."""
        return next(iter(self.subsets.values())).truth


def take(job: Job, original: Artifact, after: Job, exported: Artifact, compiled: Sequence[Compiled]) -> Ledger:
    """Split the graphs, measure their stand-ins, and score every subset of the inputs before and after compression.

    A graph that cannot be split, or without rows to score, gives a ledger that says so instead of an error: the bundle is good without.

    Args:
        job, original: The run on the original, and its float graph.
        after, exported: The same after the torch steps; where a recipe has none, the same two again.
        compiled: What each target got, made of ``exported``.
    """
    try:
        plain = standins.in_parts(after, exported)
        kept = _in_frames(after, plain, Deployment("onnxruntime", exported.main))
        forms = [Form(None, exported, plain, standins.measure(after, exported), kept)]
        forms += [_form(after, exported, part, forms[0]) for part in compiled]
    except EdgemmError as err:
        return Ledger(warnings=[f"No split graphs and no stand-ins for missing inputs: {err.what} {err.why}".strip()])
    files = {name: path for form in forms for name, path in form.files().items()}
    of_targets = {str(form.target): form for form in forms[1:]}
    guarded = tasks.scored_outputs(job.card)
    if len(job.card.inputs) < 2 or not guarded or job.data is None or "test" not in job.dataset.splits():
        return Ledger(files=files, forms=of_targets)
    try:
        before = _before(job, original)
        answered = [_after(after, part, form, before) for part, form in zip(compiled, of_targets.values(), strict=True)]
    except EdgemmError as err:
        return Ledger(warnings=[f"No modality ledger: {err.what} {err.why}".strip()], files=files, forms=of_targets)
    return replace(_scored(job, before, answered, files), forms=of_targets)


@dataclass(frozen=True)
class Form:
    """One graph of the bundle, in parts: the float one (target None) or a target's."""

    target: str | None
    graph: Artifact
    parts: Artifact
    means: Artifact
    framewise: Artifact | None = None
    own_means: bool = True

    def files(self) -> dict[str, Path]:
        """Name in the bundle -> file."""
        prefix = f"targets/{self.target}/" if self.target else ""
        files = {f"{prefix}standins.npz": self.means.main} if self.own_means else {}
        if self.graph.main.stat().st_size <= STORED_MIB * 2**20:
            folders = [self.parts.folder, *([self.framewise.folder] if self.framewise else [])]
            stored = (splits.RECORD, splits.FRAMEWISE)
            kept = [path for folder in folders for path in sorted(folder.iterdir()) if path.name in stored or ".onnx" in path.suffixes]
            files |= {f"{prefix}split/{path.name}": path for path in kept}
        return files


def _form(job: Job, exported: Artifact, part: Compiled, plain: Form) -> Form:
    """A target's graph in parts. It shares the float graph's stand-ins, unless its cuts are others (a graph that ``qat`` exported)."""
    parts = standins.in_parts(job, part.model, exported)
    kept = _in_frames(job, parts, part.deployment)
    if _shares(splits.read(parts.folder), splits.read(plain.parts.folder), standins.load(plain.means)):
        return Form(part.target, part.model, parts, plain.means, kept, own_means=False)
    return Form(part.target, part.model, parts, standins.measure(job, part.model, exported), kept)


def _in_frames(job: Job, parts: Artifact, deployment: Deployment) -> Artifact | None:
    """What a box needs to keep frames, for parts that are stored."""
    return framewise.in_frames(job, parts, deployment) if deployment.model.stat().st_size <= STORED_MIB * 2**20 else None


def _shares(files: SplitFiles, plain: SplitFiles, means: Mapping[str, np.ndarray]) -> bool:
    """Whether the cuts are those of the float graph: the same names, and shapes that the stand-ins fit."""
    if files.cuts != plain.cuts:
        return False
    shapes = {spec.name: spec.shape for spec in onnx_file.read(files.rest).inputs if spec.name in means}
    return all(
        len(shape) == means[name].ndim and all(isinstance(a, str) or a == b for a, b in zip(shape, means[name].shape, strict=True))
        for name, shape in shapes.items()
    )


def subsets(inputs: Sequence[str]) -> list[Subset]:
    """The subsets to measure, the whole first: all that are not empty, or of many inputs the whole, all but each, and each alone."""
    sizes = range(len(inputs), 0, -1) if len(inputs) <= ALL_SUBSETS else (len(inputs), len(inputs) - 1, 1)
    return list(chain.from_iterable(combinations(inputs, size) for size in sizes))


def _before(job: Job, original: Artifact) -> Answered:
    parts = standins.in_parts(job, original)
    files = splits.read(parts.folder)
    deployment = Deployment("onnxruntime", parts.main, runtime_options=standins.threads_for(files.macs))
    candidate = Candidate("original", "original", deployment, "f32")
    form = Form(None, original, parts, standins.measure(job, original))
    return answered_by(job, candidate, form, subsets(files.inputs), standins.rows_for(files.macs, ROWS))


def _after(job: Job, part: Compiled, form: Form, before: Answered) -> Answered:
    return answered_by(job, in_parts(part, form), form, list(before.subsets), before.rows)


def in_parts(part: Compiled, form: Form) -> Candidate:
    """What a target got, in parts; on itself, and where that cannot run here in ONNX Runtime, and the name says so."""
    candidate = replace(part.candidate(), deployment=part.deployment.holding(form.parts.main))
    if part.deployment.plugin().cannot_run():
        candidate = replace(candidate, name=f"{candidate.name}{ELSEWHERE}")
    return candidate


def answered_by(job: Job, candidate: Candidate, form: Form, subsets: Sequence[Subset], rows: int, split: str = "test") -> Answered:
    """A cached stage: the answers to every subset on a split, the truth beside the first."""

    def answered() -> Arrays:
        def tell(done: int) -> None:
            job.show(f"subsets of the inputs, {candidate.name}", min(1.0, done / rows))

        answers, ran = answer_subsets(
            job.predictor, candidate, form.means.main, str(job.data), job.card, subsets, rows=rows, split=split, seed=job.seed,
            skip_bad_rows=job.skip_bad_rows, progress=tell,
        )  # fmt: skip
        numbered = {f"{index}:{name}": array for index, one in enumerate(answers) for name, array in one.arrays().items()}
        return {PRECISION: np.array(ran), **numbered}

    facts = {
        "parts": form.parts.folder.name,
        "standins": form.means.folder.name,
        "deployment": candidate.deployment.key(),
        "subsets": subsets,
        "data": job.fingerprint,
        "rows": rows,
        "split": split,
        "seed": job.seed,
        "skip_bad_rows": job.skip_bad_rows,
    }
    flat = job.arrays(
        f"ledger {candidate.name}{'' if split == 'test' else f', {split}'}",
        facts,
        answered,
        steps=(),
        runs=[candidate.deployment],
        on_this_machine=True,
    )
    answers = {}
    for index, subset in enumerate(subsets):
        own = {key.partition(":")[2]: array for key, array in flat.items() if key.startswith(f"{index}:")}
        answers[subset] = Answers.of_arrays(own)
    return Answered(candidate, str(flat[PRECISION]), answers, rows)


def _scored(job: Job, before: Answered, after: Sequence[Answered], files: Mapping[str, Path]) -> Ledger:
    inputs = next(iter(before.subsets))
    measured = [m for form in (before, *after) for m in _measurements(job, form)]
    outputs = [name for name in tasks.scored_outputs(job.card) if _known(before, job, name)]
    rows = [_contribution(job, name, input_name, before, form) for form in after for name in outputs for input_name in inputs]
    counted = next((m.n for m in measured if m.n), 0)
    where = {form.candidate.target: form.candidate.name for form in after}
    shares = [
        row
        for form in after
        for name in outputs
        for row in subset_findings.who_said_what(job.card, name, str(form.candidate.target), before.subsets, form.subsets)
    ]
    details = Listening(inputs, counted, job.dataset.count("test"), where, rows, shares)
    words = ["before", *(form.candidate.name for form in after)]
    forms = zip(words, (before, *after), strict=True)
    known = [row for word, form in forms for row in subset_findings.calibrations(job.card, word, form.subsets, form.truth)]
    return Ledger(measured, details, [_warning(row) for row in rows if row.deaf], files, known)


def _known(form: Answered, job: Job, name: str) -> bool:
    return name in form.truth or not tasks.of(job.card.outputs[name]).has_truth


def _measurements(job: Job, form: Answered) -> list[Measurement]:
    about = {
        "subject": form.candidate.subject,
        "candidate": form.candidate.name,
        "target": form.candidate.target,
        "precision_asked": form.candidate.precision_asked,
        "precision_ran": form.precision,
    }
    return [
        replace(m, modalities=subset, **about)  # type: ignore[arg-type]  # all of them are words
        for subset, answers in form.subsets.items()
        for m in score(job.card.outputs, Answers(answers.predictions, form.truth))
    ]


def _contribution(job: Job, output: str, input_name: str, before: Answered, after: Answered) -> Contribution:
    """What an input adds to a head: the metric of the whole less that without it, before and after, and what of it was lost."""
    whole = next(iter(before.subsets))
    without = tuple(name for name in whole if name != input_name)

    task = tasks.of(job.card.outputs[output])

    def measured(form: Answered, subset: Subset) -> Statistics:
        return task.measure(form.subsets[subset].predictions, form.truth.get(output))

    (was, was_without), (now, now_without) = ([measured(form, subset) for subset in (whole, without)] for form in (before, after))
    first, second = was.gain(1.0, [(-1.0, was_without)]), now.gain(1.0, [(-1.0, now_without)])
    change = now.gain(1.0, [(-1.0, now_without), (-1.0, was), (1.0, was_without)])
    kept = now.gain(1.0, [(-1.0, now_without), (-DEAF_SHARE, was), (DEAF_SHARE, was_without)])
    listened = first.low is not None and first.low > 0
    deaf = bool(listened and kept.high is not None and kept.high < 0)
    gains = [Interval(score.value, score.low, score.high) for score in (first, second, change)]
    return Contribution(input_name, output, after.candidate.target, gains[0], gains[1], gains[2], first.unit, deaf)


def _warning(row: Contribution) -> str:
    unit = f" {row.unit}" if row.unit else ""
    before, after = row.before.value, row.after.value
    after = after if abs(after) > NOTHING * before else 0.0  # not "-1e-09 points"
    added = f"it added {before:.3g}{unit} to '{row.output}', now {after:.3g}{unit}."
    return f"{row.target}: compression made the model stop listening to '{row.input}': {added}"
