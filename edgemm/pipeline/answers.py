"""What a form of the model answers on a split, from a process of its own, kept in the cache; and what it lost against the original."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np

from edgemm.box.measuring.answers import score
from edgemm.box.measuring.candidate import Candidate
from edgemm.contracts import plugins
from edgemm.contracts.answers import Answers, Arrays
from edgemm.contracts.card import Output
from edgemm.contracts.dataset import Dataset
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.report import Measurement
from edgemm.contracts.target import Session, Target
from edgemm.contracts.task import of as task_of
from edgemm.contracts.task import scored_outputs
from edgemm.data.checking import require_agreement
from edgemm.data.dataset import open_dataset
from edgemm.pipeline.job import Job
from edgemm.store.artifact import Artifact

BATCH_SIZE = 64
"""Rows at a time through the original torch model."""
DECISION_ROWS = 2000
"""Rows of val that decide: an accuracy of 0.9 that lost one point in pairs is then known to about 0.6 points."""


def answers(
    job: Job, candidate: Candidate, made_of: Any, split: str = "test", *, limit: int | None = None, session: Session | None = None
) -> Answers:
    """A candidate's answers on a split, with the truth. Those of torch's original are computed here, where torch is loaded.

    Args:
        made_of: What the candidate's model is made of, for the cache's key: the artifact's folder name, or a model's identity.
        limit: First rows only.
        session: The candidate, where it is open here.
    """

    def predicted() -> Arrays:
        if candidate.target == "torch":
            with nullcontext(session) if session else candidate.deployment.open() as opened:
                return by_batches(opened, open_dataset(str(job.data), job.card, skip_bad_rows=job.skip_bad_rows), split, limit=limit)
        return job.predictor.predict(candidate, str(job.data), job.card, split, limit=limit, skip_bad_rows=job.skip_bad_rows).arrays()

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


def original_answers(job: Job, exported: Artifact, split: str, *, limit: int | None = None, session: Session | None = None) -> Answers:
    """The original's answers, with the truth.

    Args:
        job, exported: The original's.
        session: The original, where it is open here.
    """
    form = original_form(job, exported)
    made_of = exported.folder.name if form.model == exported.main else job.identity
    return answers(job, form, made_of, split, limit=limit, session=session)


def reference(job: Job, exported: Artifact, *, decides: bool = False) -> Artifact:
    """``reference.npz``: labels and the original model's outputs on the test split, as ``Answers.read`` reads them.

    The original is the torch model; for an ONNX file, that file in ONNX Runtime.

    Args:
        decides: Its answers to the rows that decide will be asked for too: they are computed while it is open.
    """
    runtime, model, batch_size = ("onnxruntime", exported.main, 1) if job.card.is_onnx else ("torch", job.card.path, BATCH_SIZE)

    def rows() -> dict[str, np.ndarray]:
        assert model is not None  # a card of torch was read from a file
        with plugins.load(Target, runtime).open(model) as session:
            answered = by_batches(session, job.dataset, "test", batch_size=batch_size)
            split = decision_split(job.dataset)[0]
            if decides and split and runtime == "torch":
                original_answers(job, exported, split, limit=DECISION_ROWS, session=session)
            return answered

    facts = {"model": job.identity, "data": job.fingerprint, "graph": exported.folder.name if job.card.is_onnx else None}
    return job.npz("reference", facts, rows, steps=(), targets=[runtime], packages=(runtime, "numpy"))


def by_batches(
    session: Session, dataset: Dataset, split: str, *, batch_size: int = BATCH_SIZE, limit: int | None = None
) -> dict[str, np.ndarray]:
    """A session's answers to a split and the truth, as ``Answers.arrays`` names them.

    Raises:
        DataError: The first answers do not agree with the truth.
    """
    batches: dict[str, list[np.ndarray]] = {}
    for batch in dataset.batches(split, batch_size, limit=limit):
        answered = session.run(batch.inputs)
        if not batches:
            require_agreement(dataset.card, dataset.name, answered, batch)
        for name, value in Answers(answered, batch.truth).arrays().items():
            batches.setdefault(name, []).append(value)
    return {name: np.concatenate(values) for name, values in batches.items()}


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
    outputs = {name: job.card.outputs[name] for name in scored_outputs(job.card)}
    return {name: output for name, output in outputs.items() if set(task_of(output).reads) <= answered.predictions.keys()}
