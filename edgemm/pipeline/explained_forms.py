"""The forms in which a model is explained: a bundle's float graph and what was made of it, or a card's exported graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgemm.box.bundle import parts as splits
from edgemm.box.bundle.deployment import ServedBundle, deploy, deploy_float
from edgemm.box.bundle.opened import open_bundle
from edgemm.box.bundle.seal import MANIFEST
from edgemm.box.serving.model import choose_target
from edgemm.contracts.answers import Arrays
from edgemm.contracts.card import Card
from edgemm.contracts.deployment import Deployment
from edgemm.data.explained import LOG_ODDS, USUAL_ROWS, Question
from edgemm.data.occlusion.pieces import Pieces
from edgemm.data.one_row import OneRow
from edgemm.errors import BundleError, EdgemmError, MissingExtra
from edgemm.pipeline import stages, standins
from edgemm.pipeline.explaining import Attribute, Form
from edgemm.pipeline.job import Job, start
from edgemm.progress import Progress

GRADIENTS = "integrated gradients"


@dataclass
class Forms:
    """What is explained.

    Attributes:
        forms: The original first.
        reference: Output -> answers to rows of test, for what is said on average.
        attribute: Maps of another kind than those of pieces taken away.
        notes: What the reader must know.
    """

    card: Card
    forms: list[Form]
    reference: Arrays | None = None
    attribute: dict[str, Attribute] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def open_forms(model: str | Path, data: str | Path, target: str | None, progress: Progress) -> Forms:
    """The forms of a bundle or a card.

    Raises:
        EdgemmError: It is neither, or cannot be opened; a target of a card.
    """
    path = Path(model)
    if path.suffix == ".edgemm" or (path / MANIFEST).is_file():
        opened = _of_bundle(path, target)
    elif target is not None:
        raise EdgemmError(
            f"'{model}' was made for no target.",
            why="--target chooses among those of a bundle.",
            fix="give a bundle, or leave out --target.",
        )
    else:
        opened = _of_card(start(model, data, progress=progress))
    if not any(form.served.split for form in opened.forms):
        opened.notes.append("the model is not in parts, so that no input can be left out: there are no shares.")
    if opened.reference is None:
        opened.notes.append("the bundle holds no answers to test rows: shares are counted from 0, not from what is said on average.")
    return opened


def _of_bundle(path: Path, target: str | None) -> Forms:
    bundle = open_bundle(path)
    reference, choice = bundle.reference(), choose_target(bundle, target)
    opened = Forms(bundle.card, [], None if reference is None else reference.predictions)
    try:
        opened.forms.append(Form("float", deploy_float(bundle)))
        opened.forms[0].served.whole.plugin()
    except (BundleError, MissingExtra) as err:
        opened.forms.clear()
        opened.notes.append(f"the float graph is not shown: {err.what} {err.why}".strip())
    if choice.target in bundle.targets():
        opened.forms.append(Form(f"compressed, {choice.target}", deploy(bundle, choice.target)))
        opened.notes += [choice.note] if choice.note else []
    return opened


def _of_card(job: Job) -> Forms:
    stages.check_weights(job, untrained=None)
    exported = stages.export(job)
    notes = list(job.notes)
    try:
        parts = standins.in_parts(job, exported)
        split, means = splits.read(parts.folder), standins.load(standins.measure(job, exported))
    except EdgemmError as err:
        split, means = None, None
        notes.append(f"the graph cannot be split: {err.what} {err.why}".strip())
    whole = Deployment("onnxruntime", exported.main)
    opened = Forms(job.card, [Form("float", ServedBundle(whole, split, means))], _answers(job, whole), notes=notes)
    if job.card.factory:
        opened.attribute[GRADIENTS] = _gradients(job.card, opened.notes)
    return opened


def _answers(job: Job, deployment: Deployment) -> Arrays:
    """What the float graph answers to some rows of test, or of the first split there is."""
    split = next(name for name in ("test", "val", "train") if name in job.dataset.splits())
    with deployment.open() as session:
        batches = job.dataset.batches(split, 1, shuffle=job.seed, limit=USUAL_ROWS)
        answers = [session.run(batch.inputs) for batch in batches]
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


def _gradients(card: Card, notes: list[str]) -> Attribute:
    """Integrated gradients of the torch model, on the cells of each input's pieces."""
    from edgemm.workshop.models.checkpoint.loading import load_model
    from edgemm.workshop.models.integrated_gradients import integrated_gradients

    model = load_model(card)

    def attribute(row: OneRow, question: Question, found: Mapping[str, Pieces]) -> Mapping[str, np.ndarray]:
        if question.unit != LOG_ODDS and question.label:
            _note(notes, f"there are no {GRADIENTS} of '{question.task.name}': its boxes, masks or points have no single number.")
            return {}
        neutral = {name: row.inputs[name] if name not in found else found[name].blank() for name in card.inputs}
        told = integrated_gradients(model, row.inputs, neutral, question.task.name, question.place)
        if told.gap > told.FAR:
            words = f"add up to {told.total:.3g} where the answer moved by {told.moved:.3g}: read them with care."
            _note(notes, f"{GRADIENTS} of '{question.task.name}' {words}")
        return {name: found[name].cells_of(values) for name, values in told.worth.items() if name in found}

    return attribute


def _note(notes: list[str], text: str) -> None:
    if text not in notes:
        notes.append(text)
