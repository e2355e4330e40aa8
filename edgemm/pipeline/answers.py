"""What a form of the model answers on a split, from a process of its own, kept in the cache; and what it lost against the original."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from edgemm.box.measuring.answers import score
from edgemm.box.measuring.candidate import Candidate
from edgemm.box.measuring.predict import Predictor
from edgemm.contracts.answers import Answers, Arrays
from edgemm.contracts.card import Output
from edgemm.contracts.dataset import Dataset
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.report import Measurement
from edgemm.contracts.task import scored_outputs
from edgemm.pipeline.job import Job
from edgemm.store.artifact import Artifact

DECISION_ROWS = 2000
"""Rows of val that decide: an accuracy of 0.9 that lost one point in pairs is then known to about 0.6 points."""


def answers(
    job: Job, candidate: Candidate, made_of: Any, split: str = "test", *, limit: int | None = None, predictor: Predictor | None = None
) -> Answers:
    """A candidate's answers on a split, with the truth.

    Args:
        made_of: What the candidate's model is made of, for the cache's key: the artifact's folder name, or a model's identity.
        limit: First rows only.
        predictor: What candidates that follow each other share; None = this one is alone.
    """

    def predicted() -> Arrays:
        with nullcontext(predictor) if predictor else Predictor() as shared:
            answered = shared.predict(candidate, str(job.data), job.card, split, limit=limit, skip_bad_rows=job.skip_bad_rows)
            return answered.arrays()

    facts = {
        "model": made_of,
        "deployment": candidate.deployment.key(),
        "data": job.fingerprint,
        "skip_bad_rows": job.skip_bad_rows,
        "split": split,
        "limit": limit,
    }
    name = f"accuracy {candidate.name}" if split == "test" else f"{split} {candidate.name}"
    flat = job.arrays(name, facts, predicted, steps=(), runs=[candidate.deployment], on_this_machine=True)
    return Answers.of_arrays(flat)


def original_form(job: Job, exported: Artifact) -> Candidate:
    """The original as something to measure: the torch model, or an imported ONNX file in ONNX Runtime."""
    if job.card.is_onnx or job.card.path is None:
        return Candidate("original", "original", Deployment("onnxruntime", exported.main), "f32")
    return Candidate("original", "original", Deployment("torch", job.card.path), "f32")


def original_answers(job: Job, exported: Artifact, split: str, *, limit: int | None = None) -> Answers:
    """The original's answers, with the truth.

    Args:
        job, exported: The original's.
    """
    form = original_form(job, exported)
    return answers(job, form, exported.folder.name if form.model == exported.main else job.identity, split, limit=limit)


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


def scored(job: Job, answered: Answers) -> list[Measurement]:
    """The metric of every output that has one and a truth."""
    return score(_with_metric(job, answered), answered)


def lost(job: Job, before: Answers, after: Answers) -> dict[str, Measurement]:
    """Output -> ``accuracy_drop_points`` with its paired 95% interval, for every output that has a metric and a truth (``before``'s)."""
    both = Answers(after.predictions, before.truth)
    losses = score(_with_metric(job, both), both, before.predictions)
    return {str(m.output): m for m in losses if m.name == "accuracy_drop_points"}


def _with_metric(job: Job, answered: Answers) -> dict[str, Output]:
    return {name: job.card.outputs[name] for name in scored_outputs(job.card) if name in answered.predictions}
