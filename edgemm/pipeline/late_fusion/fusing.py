"""The stages of a late fusion: members exported, laid into one graph, asked about val and test, joined, and written as a card."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.contracts import joint as joints
from edgemm.contracts import joint_ops, plugins, user_code
from edgemm.contracts import task as tasks
from edgemm.contracts.answers import LABEL, Arrays
from edgemm.contracts.card import Card, Output
from edgemm.contracts.joint import Joint, JointHead
from edgemm.contracts.modality import input_specs
from edgemm.contracts.target import Target
from edgemm.data.dataset import synthetic
from edgemm.errors import CardError, DataError
from edgemm.pipeline import stages
from edgemm.pipeline.answers import decision_split
from edgemm.pipeline.job import Job
from edgemm.pipeline.late_fusion import fitting
from edgemm.pipeline.late_fusion.choosing import OPS
from edgemm.pipeline.late_fusion.enough_rows import LEAST_ROWS, never_there, too_few
from edgemm.pipeline.late_fusion.fitting import Fitted, Rows
from edgemm.pipeline.late_fusion.members import Composed
from edgemm.store.artifact import Artifact
from edgemm.workshop.models.checkpoint import files as checkpoints

TRAIN_ROWS = 1000
"""Rows of train that a learned rule is held against: two points are then told from none."""
ROUNDED = 1e-3  # how far the sum of a row's chances may be from 1
THERE = "there:"
FUSED = "fused.onnx"


@dataclass(frozen=True)
class Whole:
    """A fusion, fitted.

    Attributes:
        card: The fused card, its joint complete.
        fitted: Head -> its joint.
        members: The graph of all members.
    """

    card: Card
    fitted: Mapping[str, Fitted]
    members: Artifact


def members_graph(job: Job, composed: Composed) -> Artifact:
    """``members.onnx``: every member's float graph with its front-end, in one graph that answers what each of them does.

    Raises:
        CheckpointError: A member nobody trained. ExportError, ParityError, CardError: One cannot be exported, or laid beside the others.
    """
    of_member = {}
    assert composed.card.joint is not None  # compose made it
    for name, card in composed.originals.items():
        card = (
            card
            if composed.is_detector(name)
            else _opaque(card, [head.members[name] for head in composed.card.joint.heads.values() if name in head.members])
        )
        own = replace(job, card=card, data=None, dataset=synthetic(card, seed=job.seed), notes=[])
        stages.check_weights(own, untrained=None)  # of all, before the first is exported
        of_member[name] = own
    exported = {}
    for name, own in of_member.items():
        exported[name] = stages.export(own)
        composed.notes += [f"{name}: {note}" for note in own.notes]
    heard = {
        name: [*(head.members[name] for head in composed.card.joint.heads.values() if name in head.members), *_states(card)]
        for name, card in composed.members.items()
    }

    def make(scratch: Path) -> Path:
        from edgemm.graph import files
        from edgemm.graph.joint import Member, lay_together

        loaded = {name: _heard_graph(files.load(exported[name].main), composed, name, heard[name]) for name in composed.members}
        parts = {name: Member(graph, composed.inputs[name], heard[name]) for name, graph in loaded.items()}
        shapes = {spec.name: spec.shape for spec in input_specs(composed.card)}
        return files.save(lay_together(parts, shapes), scratch / "members.onnx")

    facts = {
        "members": {name: artifact.folder.name for name, artifact in exported.items()},
        "inputs": {name: dict(inputs) for name, inputs in composed.inputs.items()},
        "heard": heard,
        "detectors": {name: composed.originals[name].to_dict()["outputs"] for name in composed.members if composed.is_detector(name)},
    }
    return job.stage("members", facts, make, steps=(), targets=(), packages=("onnx",))


def _heard_graph(graph: Any, composed: Composed, member: str, heard: Sequence[str]) -> Any:
    """A member's graph that answers what is heard of it."""
    from edgemm.graph.detected import with_best_scores

    for output in heard if composed.is_detector(member) else ():
        spec = composed.originals[member].outputs.get(output)
        task = tasks.of(spec) if spec is not None else None
        layout = getattr(task, "form", None) if task is not None and task.has_boxes else None
        graph = graph if layout is None else with_best_scores(graph, output, layout)
    return graph


def _opaque(card: Card, outputs: Sequence[str]) -> Card:
    """An ONNX member whose answers are taken as they are: what they mean, chances too, is the joint's to read."""
    if not card.is_onnx:
        return card
    return card.replace(outputs={**card.outputs, **{name: Output(name, "tensor") for name in outputs}})


def _states(card: Card) -> list[str]:
    return [str(spec.options["state"]) for spec in card.inputs.values() if spec.options.get("state")]


def rows_of(job: Job, composed: Composed, members: Artifact, split: str, *, limit: int | None = None) -> dict[str, Rows]:
    """Head -> what its members answer to a split, with the truth.

    Args:
        limit: At most so many rows, a choice by the run's seed.

    Raises:
        DataError: No row, or too few, has a member and a truth; says which.
    """

    def asked() -> Arrays:
        with plugins.load(Target, "onnxruntime").open(members.main, threads=1) as session:
            return _asked(job, composed, session, split, limit)

    facts = {"members": members.folder.name, "data": job.fingerprint, "split": split, "limit": limit, "seed": job.seed}
    facts["skip_bad_rows"] = job.skip_bad_rows
    flat = job.arrays(f"members {split}", facts, asked, steps=(), targets=["onnxruntime"], packages=("onnxruntime", "numpy"))
    assert composed.card.joint is not None  # compose made it
    return {name: _rows(composed, name, head, flat, split) for name, head in composed.card.joint.heads.items()}


def _asked(job: Job, composed: Composed, session: Any, split: str, limit: int | None) -> Arrays:
    """Every member's answers row by row, as a foreign graph may take no more at once."""
    rows: dict[str, list[np.ndarray]] = {}
    count = min(job.dataset.count(split), limit or sys.maxsize)
    shuffle = job.seed if count < job.dataset.count(split) else None
    for number, batch in enumerate(job.dataset.batches(split, 1, shuffle=shuffle, limit=limit)):
        answered = session.run(batch.inputs)
        for name, inputs in composed.card.joint.members.items() if composed.card.joint else ():
            known = [bool(batch.present[one].all()) for one in inputs if one in batch.present]
            sure = any(one not in batch.present for one in inputs)
            rows.setdefault(f"{THERE}{name}", []).append(np.array([sure or any(known) or not known]))
        for name, value in [*answered.items(), *((f"{LABEL}{name}", value) for name, value in batch.truth.items())]:
            rows.setdefault(name, []).append(value)
        if number % 50 == 0:
            job.show(f"members on {split}, {number} rows", number / max(count, 1))
    states = {output for card in composed.members.values() for output in _states(card)}
    return {name: np.concatenate(values) for name, values in rows.items() if name.rpartition("/")[2] not in states}


def _rows(composed: Composed, name: str, head: JointHead, flat: Arrays, split: str) -> Rows:
    task = composed.card.outputs[name].task
    answers = {member: flat[f"{member}/{output}"].reshape(len(flat[f"{THERE}{member}"]), -1) for member, output in head.members.items()}
    there = {member: flat[f"{THERE}{member}"] for member in head.members}
    for member, output in head.members.items():
        _check_width(composed.members[member], member, output, answers[member].shape[-1])
    labels = composed.card.outputs[name].labels
    width = len(labels) if labels else next(iter(answers.values())).shape[-1]
    if not labels and len({value.shape[-1] for value in answers.values()}) > 1:
        sizes = ", ".join(f"'{member}' answers with {value.shape[-1]}" for member, value in answers.items())
        raise DataError(
            f"head '{name}' would join answers of different sizes.", why=f"{sizes} numbers.", fix="fuse what has the same size."
        )
    for member, known in there.items():
        if not known.any():
            raise never_there(member, split, "its inputs are missing in every row.")
    if len(next(iter(there.values()))) < LEAST_ROWS or not np.all(list(there.values()), axis=0).any():
        raise too_few(name, split, f"{int(np.all(list(there.values()), axis=0).sum())} have all of its members")
    return Rows(task, answers, there, flat.get(f"{LABEL}{name}"), width)


def _check_width(card: Card, member: str, output: str, width: int) -> None:
    """Raises CardError where a member answers with another number of values than its card names labels."""
    labels, task = card.outputs[output].labels, card.outputs[output].task
    if labels and width != len(labels) and not (task == "classification" and len(labels) == 2 and width == 1):
        raise CardError(
            f"'{member}' answers '{output}' with {width} numbers; its card names {len(labels)} labels.",
            why="it answers with one logit, or one chance, a label.",
            fix="give the card as many labels as the model has classes, in their order.",
        )


def fit(job: Job, composed: Composed, members: Artifact) -> Whole:
    """Fit every head's joint on val.

    Raises:
        DataError: As ``rows_of``.
    """
    split, note = decision_split(job.dataset)
    composed.notes += [note] if note else []
    assert composed.card.joint is not None  # compose made it
    rows = rows_of(job, composed, members, split)
    others = (
        rows_of(job, composed, members, "train", limit=TRAIN_ROWS) if job.dataset.count("train") >= LEAST_ROWS and split != "train" else {}
    )
    fitted = {}
    for name, head in composed.card.joint.heads.items():
        asked = composed.asked[name]
        chances = tuple(member for member in head.members if _are_chances(rows[name], member))
        single = tuple(
            member for member in head.members if rows[name].task == "classification" and rows[name].answers[member].shape[-1] == 1
        )
        composed.notes += [f"{member} answers '{name}' with chances: the joint takes their logarithm." for member in chances]
        job.show(f"joining {name}", 0.0)
        fitted[name] = fitting.fit(
            replace(head, chances=chances, single=single),
            rows[name],
            rule=asked.rule,
            weights=asked.weights,
            elsewhere=others.get(name),
            seed=job.seed,
        )
    joint = Joint(composed.card.joint.members, {name: one.head for name, one in fitted.items()})
    return Whole(composed.card.replace(joint=joint), fitted, members)


def _are_chances(rows: Rows, member: str) -> bool:
    """Whether a member answers with what a softmax or a sigmoid makes: a logit is below 0 in some row, or above 1."""
    answers = rows.answers[member][rows.there[member]]
    if rows.task not in ("classification", "multilabel") or (answers < 0).any() or (answers > 1 + ROUNDED).any():
        return False
    is_of_each = rows.task == "multilabel" or answers.shape[-1] == 1
    return is_of_each or np.allclose(answers.sum(-1, dtype=np.float64), 1, rtol=0, atol=ROUNDED)


def write(whole: Whole, composed: Composed, widths: Mapping[str, int], scratch: Path, final: Path) -> None:
    """The card and its model into ``scratch``, a folder that will be renamed to ``final``: torch where all members are, else ONNX."""
    if composed.is_torch:
        _write_torch(whole, composed, widths, scratch, final)
    else:
        _write_onnx(whole, widths, scratch)


def _write_onnx(whole: Whole, widths: Mapping[str, int], scratch: Path) -> None:
    from edgemm.graph import files
    from edgemm.graph.joint import join

    parameters = {name: one.parameters for name, one in whole.fitted.items()}
    files.save(join(files.load(whole.members.main), whole.card, parameters, widths), scratch / FUSED)
    stages.lay_out(scratch, {}, whole.card.replace(model=FUSED))


def _write_torch(whole: Whole, composed: Composed, widths: Mapping[str, int], scratch: Path, final: Path) -> None:
    from edgemm.workshop.models import late
    from edgemm.workshop.models.checkpoint.loading import load_model, write_model
    from edgemm.workshop.models.fused import FusedModel

    members = {name: _inline(card, composed.inputs[name], final) for name, card in composed.members.items()}
    unlabelled = {name: width for name, width in widths.items() if not whole.card.outputs[name].labels}
    kwargs: dict[str, Any] = {"members": members} | ({"widths": unlabelled} if unlabelled else {})
    card = whole.card.replace(model=None, factory=joints.FACTORY, kwargs=kwargs, path=(final / checkpoints.CARD).resolve())
    module = late.build(card, lambda name, _: load_model(composed.members[name]))
    for name, one in whole.fitted.items():
        module.joint_of(name).set(one.parameters)
    write_model(FusedModel(card, module).eval(), scratch, final)


def _inline(card: Card, inputs: Mapping[str, str], final: Path) -> dict[str, Any]:
    """A member's card as it stands among the kwargs of the fused one: places as seen from there, inputs by their names there."""
    plain = card.to_dict()
    own: dict[str, Any] = {key: plain[key] for key in ("factory", "kwargs", "outputs") if key in plain}
    own["inputs"] = dict(inputs)
    own["applied"] = [{step: str((card.folder / record).resolve()) for step, record in entry.items()} for entry in card.applied]
    if user_code.kind(card) == "shipped":
        own["kwargs"] = checkpoints.moved(dict(card.kwargs), card.folder, final)
    else:
        own["source"] = str(user_code.locate(card).root or "") or None
    return own


def heard_alone(head: JointHead, rows: Rows, member: str) -> np.ndarray:
    """What a member says to a head by itself, before calibration: (rows, values)."""
    widths = {name: 2 if name in head.single else value.shape[-1] for name, value in rows.answers.items()}
    start = joint_ops.parameters(head, rows.task, rows.width, widths)
    k = {**start, **joint_ops.constants(head, rows.task, rows.width)}
    said: np.ndarray = joint_ops.evidence(OPS, rows.task, rows.answers[member], k, head, member, rows.width)
    return said[:, 0]
