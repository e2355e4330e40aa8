"""Accuracy of every form on the test split, on its own target, and what was lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgemm.box.measuring.answers import NOTHING, score
from edgemm.box.measuring.candidate import Candidate
from edgemm.box.measuring.candidates import Contender
from edgemm.box.measuring.findings import Findings
from edgemm.box.measuring.measurements import about
from edgemm.box.measuring.predict import Predictor
from edgemm.contracts.answers import Answers, Arrays
from edgemm.contracts.card import Card
from edgemm.contracts.interval import rows_to_show
from edgemm.contracts.report import Measurement
from edgemm.contracts.task import of as task_of
from edgemm.contracts.task import scored_outputs
from edgemm.data import scoring
from edgemm.data.detected import detected
from edgemm.data.judged import judged
from edgemm.errors import MeasureError, TargetError
from edgemm.progress import Progress

CLAIM_POINTS = 1.0  # of accuracy lost, where no budget says what is to be shown


def scored(card: Card, forms: Sequence[Candidate], ran: Mapping[str, str], answers: Mapping[str, Answers], before: Arrays) -> Findings:
    """Every answered form's metrics, what it lost against the original, confusion matrices, and what is found.

    Args:
        ran: Name of a form -> the precision that ran.
        answers: Name of a form -> its answers to the test split; forms without are left out.
        before: The original's answers to the same rows; {} where nobody knows them.
    """
    able = [form for form in forms if form.name in answers]
    measured = [
        measurement
        for form in able
        for measurement in about(
            form, ran[form.name], score(card.outputs, answers[form.name], NOTHING if form.subject == "original" else before)
        )
    ]
    after = next((answers[form.name] for form in able if form.subject == "bundle"), Answers({}))
    truth = next((answers[form.name].truth for form in able), {})
    notes = [f"'{name}': {words}" for name, rows in truth.items() for words in task_of(card.outputs[name]).notes(rows)]
    details = {
        "confusion": scoring.confusions(card.outputs, truth, before, after.predictions),
        "detected": detected(card, truth, before, after.predictions),
        "judged": judged(card, truth, before, after.predictions),
    }
    return Findings(measured, details, notes)


def accuracy(
    contenders: Sequence[Contender],
    forms: Sequence[Candidate],
    ran: Mapping[str, str],
    *,
    data: str | Path,
    limit: int | None,
    skip_bad_rows: bool,
    progress: Progress,
) -> Findings:
    """Run the test split through every form, and score it; a form that fails is noted, and the rest goes on.

    Args:
        limit: First rows only.

    Raises:
        EdgemmError: What is wrong with the data; its labels are not those that a contender was proved on.
    """
    card = contenders[0].card
    guarded = scored_outputs(card)
    wanted = {read for name in guarded for read in task_of(card.outputs[name]).reads}
    if not guarded:
        return Findings(notes=["No output has a metric: accuracy was not measured."])
    answers: dict[str, Answers] = {}
    notes = []
    with progress.stage("accuracy"), Predictor() as predictor:
        for number, form in enumerate(forms):
            progress.update(text=form.name, fraction=number / len(forms))
            try:
                answered = predictor.predict(form, data, card, limit=limit, skip_bad_rows=skip_bad_rows)
            except (MeasureError, TargetError) as err:  # this one crashed, hung or refused; what is wrong with the data ends the run
                notes.append(f"{form.name}: accuracy was not measured: {err.what} {err.why}".strip())
                continue
            _require_same_rows(contenders, answered.truth, limit)
            if absent := sorted(wanted - {*answered.predictions}):
                names = ", ".join(answered.predictions) or "none"
                notes.append(f"{form.name}: accuracy was not measured: it has no output '{absent[0]}', only {names}.")
                continue
            answers[form.name] = answered
    if not answers:
        return Findings(notes=notes)
    before, unknown = _before(contenders, forms, answers, limit)
    findings = scored(card, forms, ran, answers, before)
    return Findings(
        findings.measurements, findings.details, [*notes, *unknown, *findings.notes, *_too_few(contenders, findings.measurements)]
    )


def _too_few(contenders: Sequence[Contender], scores: Sequence[Measurement]) -> list[str]:
    """A note for each output of which the test split is too small to show that a loss stays within its limit."""
    limits_of = {contender.given: contender.budgets.get("accuracy_drop_points", CLAIM_POINTS) for contender in contenders}
    notes = []
    for m in scores:
        if m.name != "accuracy_drop_points" or m.subject != "bundle" or m.unit != "points" or m.low is None or m.high is None or not m.n:
            continue
        limit = limits_of.get(m.candidate, CLAIM_POINTS)
        limit = limit.get(m.output, CLAIM_POINTS) if isinstance(limit, Mapping) else limit
        half = (m.high - m.low) / 2
        if limit and half > limit and m.low <= limit <= m.high:
            needed = rows_to_show(m.n, m.low, m.high, limit)
            notes.append(
                f"{m.candidate}, {m.target}: {m.n} samples leave the loss of '{m.output}' unsure by {half:.1f} points; "
                f"to show one of at most {limit:g} about {needed} are needed."
            )
    return list(dict.fromkeys(notes))


def _require_same_rows(contenders: Sequence[Contender], truth: Arrays, limit: int | None) -> None:
    """Raises MeasureError where a bundle's reference has other labels than the data."""
    for contender in contenders:
        if contender.reference is None:
            continue
        for name, labels in truth.items():
            kept = contender.reference.truth.get(name)
            if kept is not None and np.array_equal(kept[:limit], labels):
                continue
            other = ", with other labels" if kept is not None and len(kept[:limit]) == len(labels) else ""
            raise MeasureError(
                f"the labels of output '{name}' in the data are not those '{contender.given}' was proved on.",
                why=f"its reference.npz holds {0 if kept is None else len(kept)} rows, the test split has {len(labels)}{other}.",
                fix="give the dataset that compress was given.",
            )


def _before(
    contenders: Sequence[Contender], forms: Sequence[Candidate], answers: Mapping[str, Answers], limit: int | None
) -> tuple[Arrays, list[str]]:
    """The original's answers: from torch when it was measured, else as a bundle keeps them."""
    for form in forms:
        if form.subject == "original" and form.name in answers:
            return answers[form.name].predictions, []
    reference = next((contender.reference for contender in contenders if contender.reference), None)
    if reference is None:
        return {}, ["Nothing is known of the original's answers: what was lost against it was not measured."]
    return reference.first(limit).predictions, []
