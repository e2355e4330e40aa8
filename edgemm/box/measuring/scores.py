"""Accuracy for `edgemm benchmark`: every form's answers on the test split, on its own target, and what was lost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.box.measuring.candidate import Candidate, Timing
from edgemm.box.measuring.candidates import Named
from edgemm.box.measuring.measurements import about
from edgemm.box.measuring.predict import Predictor
from edgemm.box.measuring.probes.accuracy import Accuracy, Answers
from edgemm.contracts import task as tasks
from edgemm.contracts.report import Measurement
from edgemm.data import scoring
from edgemm.errors import MeasureError, TargetError
from edgemm.progress import Progress

CLAIM_POINTS = 1.0  # of accuracy lost, where no budget says what is to be shown


def accuracy(
    things: Sequence[Named],
    measured: Sequence[Candidate],
    timings: Mapping[str, Timing],
    data: str | Path,
    limit: int | None,
    skip_bad_rows: bool,
    progress: Progress,
) -> tuple[list[Measurement], dict[str, Any], list[str]]:
    """Every measured form's metrics on the test split, what it lost against the original, and confusion matrices."""
    card = things[0].card
    guarded = tasks.scored_outputs(card)
    if not guarded:
        return [], {}, ["No output has a metric: accuracy was not measured."]
    answers: dict[str, Mapping[str, np.ndarray]] = {}
    truth: Mapping[str, np.ndarray] = {}
    failed = []
    with progress.stage("accuracy"), Predictor() as predictor:
        for number, row in enumerate(measured):
            progress.update(text=row.name, fraction=number / len(measured))
            try:
                found, truth = predictor.predict(row, data, card, limit=limit, skip_bad_rows=skip_bad_rows)
            except (MeasureError, TargetError) as err:  # this one crashed, hung or refused; what is wrong with the data ends the run
                failed.append(f"{row.name}: accuracy was not measured: {err.what} {err.why}".strip())
                continue
            _require_same_rows(things, truth, limit)
            if absent := sorted({*guarded} - {*found}):
                failed.append(f"{row.name}: accuracy was not measured: it has no output '{absent[0]}', only {', '.join(found) or 'none'}.")
                continue
            answers[row.name] = found
    measured = [row for row in measured if row.name in answers]
    if not measured:
        return [], {}, failed
    before, notes = _before(things, measured, answers, limit)
    notes = failed + notes
    scores = []
    for row in measured:
        known = before if row.subject != "original" else {}
        samples = [Answers({name: card.outputs[name] for name in guarded}, answers[row.name], truth, known)]
        scores += about(row, timings[row.name].precision_ran, Accuracy().summarise(samples))
    notes += _too_few(things, scores)
    after = next((row for row in measured if row.subject == "bundle"), None)
    return scores, {"confusion": scoring.confusions(card.outputs, truth, before, answers[after.name] if after else {})}, notes


def _too_few(things: Sequence[Named], scores: Sequence[Measurement]) -> list[str]:
    """A note for each output of which the test split is too small to show that a loss stays within its limit."""
    limits_of = {thing.given: thing.budgets.get("accuracy_drop_points", CLAIM_POINTS) for thing in things}
    notes = []
    for m in scores:
        if m.name != "accuracy_drop_points" or m.subject != "bundle" or m.unit != "points" or m.low is None or m.high is None or not m.n:
            continue
        limit = limits_of.get(m.candidate, CLAIM_POINTS)
        limit = limit.get(m.output, CLAIM_POINTS) if isinstance(limit, Mapping) else limit
        half = (m.high - m.low) / 2
        if limit and half > limit and m.low <= limit <= m.high:
            needed = math.ceil(m.n * (half / limit) ** 2)
            notes.append(
                f"{m.candidate}, {m.target}: {m.n} samples leave the loss of '{m.output}' unsure by {half:.1f} points; "
                f"to show one of at most {limit:g} about {needed} are needed."
            )
    return list(dict.fromkeys(notes))


def _require_same_rows(things: Sequence[Named], truth: Mapping[str, np.ndarray], limit: int | None) -> None:
    """Raises MeasureError where a bundle's reference has other labels than the data."""
    for thing in things:
        if thing.reference is None:
            continue
        for name, labels in truth.items():
            kept = thing.reference.truth.get(name)
            if kept is not None and np.array_equal(kept[:limit], labels):
                continue
            other = ", with other labels" if kept is not None and len(kept[:limit]) == len(labels) else ""
            raise MeasureError(
                f"the labels of output '{name}' in the data are not those '{thing.given}' was proved on.",
                why=f"its reference.npz holds {0 if kept is None else len(kept)} rows, the test split has {len(labels)}{other}.",
                fix="give the dataset that compress was given.",
            )


def _before(
    things: Sequence[Named], measured: Sequence[Candidate], answers: Mapping[str, Mapping[str, np.ndarray]], limit: int | None
) -> tuple[Mapping[str, np.ndarray], list[str]]:
    """The original's answers: from torch when it was measured, else as a bundle keeps them."""
    for row in measured:
        if row.subject == "original":
            return answers[row.name], []
    reference = next((thing.reference for thing in things if thing.reference), None)
    if reference is None:
        return {}, ["Nothing is known of the original's answers: what was lost against it was not measured."]
    return {name: array[:limit] for name, array in reference.predictions.items()}, []
