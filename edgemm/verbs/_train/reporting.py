"""The report of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgemm.box.devices.environment import environment
from edgemm.contracts.card import Card
from edgemm.contracts.judged_parts import AugmentedInput
from edgemm.contracts.report import Measurement, Report
from edgemm.contracts.report_parts import Details
from edgemm.data import scoring
from edgemm.data.detected import detected
from edgemm.data.judged import judged
from edgemm.store import cache
from edgemm.verbs._train.place import REPEATED

if TYPE_CHECKING:
    from edgemm.contracts.task import Score
    from edgemm.workshop.training.answers import Answered
    from edgemm.workshop.training.outcome import Trained


def report(
    card: Card, done: Trained, metrics: Mapping[str, Any], test: Answered | None, bad_rows: list[str], pictures: Sequence[AugmentedInput],
    *, repeats: int, about: Mapping[str, str],
) -> Report:  # fmt: skip
    """What came of it on test, the curves, and how rows were changed.

    Args:
        about: Facts beside those of the machine.
    """
    scores = {name: statistics.score() for name, statistics in test.statistics().items()} if test else {}
    notes = [f"The weights are those of epoch {done.best_epoch}, the best on val. Training ended {done.ended}."] if "val" in metrics else []
    notes += _repeated(metrics, repeats)
    notes += [f"{left_out(bad_rows)}."] if bad_rows else []
    answers, truth = (test.answers, test.truth) if test else ({}, {})
    details = Details(
        title=f"{card.path.stem if card.path else 'model'}, trained",
        notes=notes,
        confusion=scoring.confusions(card.outputs, truth, {}, answers),
        detected=detected(card, truth, {}, answers),
        judged=judged(card, truth, {}, answers),
        augmented=pictures,
        curves=done.curves,
    )
    told = {**environment({"torch": cache.version("torch")}), **about}
    return Report(told, [measurement(name, score) for name, score in scores.items()], details=details)


def measurement(output: str, score: Score) -> Measurement:
    """A score of the torch model as a report has it."""
    return Measurement(
        score.name, score.value, score.unit, score.better, "original", target="torch", output=output, low=score.low, high=score.high,
        n=score.n, precision_asked="fp32", precision_ran="fp32",
    )  # fmt: skip


def left_out(bad_rows: Sequence[str]) -> str:
    """How many rows were, in words."""
    one = len(bad_rows) == 1
    return f"{len(bad_rows)} {'row' if one else 'rows'} could not be read and {'was' if one else 'were'} left out"


def _repeated(metrics: Mapping[str, Any], repeats: int) -> list[str]:
    """What answering a row several times would give; a bundle answers once."""
    lines = []
    for output, values in metrics.get(REPEATED, {}).items():
        name, value = next(iter(values.items()))
        once = metrics["test"][output][name]
        words = f"Test rows answered {repeats} times, changed as in training but the first time, and averaged"
        lines.append(f"{words}: {name} of {output} {value:.4f}; once: {once:.4f}.")
    return lines
