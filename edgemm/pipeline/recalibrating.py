"""The joints of a late fusion calibrated again after quantizing: INT8 makes members surer or less sure than they were on val."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgemm.box.measuring.candidate import Candidate
from edgemm.box.measuring.subsets import answer_subsets
from edgemm.contracts.answers import Answers
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.joint import Joint, subsets
from edgemm.data import calibration
from edgemm.pipeline import standins
from edgemm.pipeline.answers import DECISION_ROWS, decision_split
from edgemm.pipeline.job import Job
from edgemm.store.artifact import Artifact

TASKS = ("classification", "multilabel")

Parameters = dict[str, dict[str, np.ndarray]]
Answered = list[tuple[tuple[str, ...], Answers, Answers]]
"""Inputs that are there, and what the float graph and the compressed one answer then; truths beside each of the first."""


def recalibrated(job: Job, exported: Artifact, quantized: Artifact, deployment: Deployment) -> Artifact:
    """The quantized graph with scale and shift of each subset's joint fitted again, on what the target answers to val.

    They change by what quantizing changed: by the best ones for its answers over the best ones for the float graph's to the same rows. So
    a joint that was learned on val is not taken for as sure as it is there.

    Args:
        exported: The float graph. A model that is no late fusion, or has no rows to calibrate on, stays as it is.
        deployment: How the quantized graph runs.
    """
    split = decision_split(job.dataset)[0] if job.data is not None else ""
    if (
        job.card.joint is None
        or not split
        or quantized.folder == exported.folder
        or not any(job.card.outputs[head].task in TASKS for head in job.card.joint.heads)
    ):
        return quantized

    def make(scratch: Path) -> Path:
        from edgemm.graph import files
        from edgemm.graph.joint import head_parameters, with_parameters

        assert job.card.joint is not None  # looked at above
        model = files.load(quantized.main)
        held = {name: head_parameters(model, name) for name in job.card.joint.heads if job.card.outputs[name].task in TASKS}
        answered = _answered(job, job.card.joint, exported, quantized, deployment, split)
        for name, parameters in _changed(job, job.card.joint, held, answered).items():
            with_parameters(model, name, parameters)
        return files.save(model, scratch / "model.onnx")

    facts = {
        "quantized": quantized.folder.name,
        "floats": exported.folder.name,
        "deployment": deployment.key(),
        "data": job.fingerprint,
        "split": split,
        "seed": job.seed,
    }
    return job.stage(f"recalibrate {deployment.target}", facts, make, steps=(), runs=[deployment], on_this_machine=True)


def _answered(job: Job, joint: Joint, exported: Artifact, quantized: Artifact, deployment: Deployment, split: str) -> Answered:
    """Answers of both graphs to each set of inputs that brings a subset of some head's members."""
    means = standins.measure(job, exported)
    wanted = list(dict.fromkeys(_inputs(joint, subset) for head in joint.heads.values() for subset in subsets(list(head.members))))
    sides = []
    for graph, opened in ((exported, Deployment("onnxruntime", exported.main)), (quantized, deployment)):
        parts = standins.in_parts(job, graph, exported)
        candidate = Candidate("calibration", "bundle", opened.holding(parts.main))
        sides.append(
            answer_subsets(
                job.predictor, candidate, means.main, str(job.data), job.card, wanted, rows=DECISION_ROWS, split=split, seed=job.seed,
                skip_bad_rows=job.skip_bad_rows,
            )[0]
        )  # fmt: skip
    truth = sides[0][0].truth
    return [
        (inputs, Answers(before.predictions, truth), Answers(after.predictions, truth))
        for inputs, before, after in zip(wanted, *sides, strict=True)
    ]


def _inputs(joint: Joint, subset: Sequence[str]) -> tuple[str, ...]:
    """The inputs that bring these members, in the card's order of members."""
    return tuple(dict.fromkeys(name for member in joint.members if member in subset for name in joint.members[member]))


def _changed(job: Job, joint: Joint, held: Mapping[str, Mapping[str, np.ndarray]], answered: Answered) -> Parameters:
    """Head -> scale and shift, each subset's by what quantizing changed."""
    known = {inputs: (before, after) for inputs, before, after in answered}
    changed: Parameters = {}
    for name, parameters in held.items():
        scale = parameters["scale"].copy()
        shift = parameters.get("shift", np.zeros_like(scale)).copy()  # an exporter drops one of zeros, as a classification's is
        task = job.card.outputs[name].task
        for number, subset in enumerate(subsets(list(joint.heads[name].members))):
            before, after = known[_inputs(joint, subset)]
            was, now = (calibration.calibrated(task, one.predictions[name], one.truth[name]) for one in (before, after))
            factor = now[0] / was[0]
            scale[0, number] *= factor
            shift[0, number] = shift[0, number] * factor + (now[1] - was[1]) / was[0]
        changed[name] = {"scale": scale, "shift": shift}
    return changed
