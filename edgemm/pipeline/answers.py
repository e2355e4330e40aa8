"""What a form of the model answers on a split, from a process of its own, kept in the cache; and what it lost against the original."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.box.bundle.packing import write_npz
from edgemm.box.measuring.candidate import Candidate
from edgemm.box.measuring.predict import Predictor
from edgemm.box.measuring.probes.accuracy import Accuracy, Answers
from edgemm.contracts import plugins
from edgemm.contracts import task as tasks
from edgemm.contracts.card import Output
from edgemm.contracts.dataset import Dataset
from edgemm.contracts.report import Measurement
from edgemm.contracts.target import Target
from edgemm.pipeline.stages import Job
from edgemm.store.artifact import Artifact

Arrays = Mapping[str, np.ndarray]
DECISION_ROWS = 2000
"""Rows of val that decide: an accuracy of 0.9 that lost one point in pairs is then known to about 0.6 points."""


def answers(
    job: Job, candidate: Candidate, made_of: Any, split: str = "test", *, limit: int | None = None, predictor: Predictor | None = None
) -> tuple[Arrays, Arrays]:
    """A candidate's answers on a split, and the truth.

    Args:
        made_of: What the candidate's artifact is made of, for the cache's key: the artifact's folder name, or a model's identity.
        limit: First rows only.
        predictor: What candidates that follow each other share; None = this one is alone.
    """

    def make(scratch: Path) -> Path:
        with nullcontext(predictor) if predictor else Predictor() as shared:
            found, truth = shared.predict(candidate, str(job.data), job.card, split, limit=limit, skip_bad_rows=job.skip_bad_rows)
        path = scratch / "predictions.npz"
        write_npz(path, {**found, **{f"label:{name}": array for name, array in truth.items()}})
        return path

    inputs = {
        "artifact": made_of,
        "target": [candidate.target, dict(candidate.target_options)],
        "options": dict(candidate.options),
        "data": job.fingerprint,
        "skip_bad_rows": job.skip_bad_rows,
        "split": split,
        "limit": limit,
    }
    name = f"accuracy {candidate.name}" if split == "test" else f"{split} {candidate.name}"
    made = job.stage(name, inputs, make, steps=(), targets=[candidate.target], packages=_packages(candidate), on_this_machine=True)
    with np.load(made.main, allow_pickle=False) as file:
        flat = dict(file)
    labels = {key.removeprefix("label:"): value for key, value in flat.items() if key.startswith("label:")}
    return {key: value for key, value in flat.items() if not key.startswith("label:")}, labels


def original_answers(job: Job, exported: Artifact, split: str, *, limit: int | None = None) -> tuple[Arrays, Arrays]:
    """The original's answers and the truth: of the torch model, or of an imported ONNX file in ONNX Runtime.

    Args:
        job, exported: The original's.
    """
    if job.card.is_onnx or job.card.path is None:
        candidate = Candidate("original", "original", "onnxruntime", exported.main, {})
        return answers(job, candidate, exported.folder.name, split, limit=limit)
    return answers(job, Candidate("original", "original", "torch", job.card.path, {}), job.identity, split, limit=limit)


def decision_split(dataset: Dataset) -> tuple[str, str]:
    """The split that decisions are taken on, and a note where it is not val. ("", why) where there is none: never test.

    A dataset without val has a tenth of train held out as val already, so that this is only about a train of one row, or none.
    """
    there = dataset.splits()
    if "val" in there:
        return "val", ""
    for split in ("calib", "train"):
        if split in there:
            return split, f"There is no val split: accuracy was guarded on '{split}', on rows that quantizing took its ranges from."
    return "", "There are only test rows, which are for reporting: accuracy was not guarded."


def scored(job: Job, found: Arrays, truth: Arrays) -> list[Measurement]:
    """The metric of every output that has one and a truth."""
    return Accuracy().summarise([Answers(_with_metric(job, found), found, truth)])


def lost(job: Job, before: Arrays, after: Arrays, truth: Arrays) -> dict[str, Measurement]:
    """Output -> ``accuracy_drop_points`` with its paired 95% interval, for every output that has a metric and a truth."""
    found = Accuracy().summarise([Answers(_with_metric(job, after), after, truth, before)])
    return {str(m.output): m for m in found if m.name == "accuracy_drop_points"}


def _packages(candidate: Candidate) -> list[str]:
    """Distributions whose version matters; the torch target is not asked, since that imports torch."""
    if candidate.target == "torch":
        return ["torch"]
    return list(plugins.find(Target, candidate.target)(**candidate.target_options).versions())


def _with_metric(job: Job, found: Arrays) -> dict[str, Output]:
    return {key: job.card.outputs[key] for key in tasks.scored_outputs(job.card) if key in found}
