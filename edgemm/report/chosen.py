"""Sections of the report page about what was chosen by measurement: precision of branches, runtime options, what keeps accuracy."""

from __future__ import annotations

from html import escape

from edgemm.contracts.interval import Interval
from edgemm.contracts.report import Report
from edgemm.report.formatting import bounds, number
from edgemm.report.sections import section, table


def precision(report: Report) -> str:
    """For each branch, its time alone in every precision, and the choice."""
    choices = report.details.precision
    kinds = list(dict.fromkeys(word for row in choices for word in row.ms))
    rows = [
        [
            escape(row.branch),
            escape(row.target),
            *(_interval(row.ms.get(word)) for word in kinds),
            f"<b>{escape(row.choice)}</b>",
            escape(row.reason),
        ]
        for row in choices
    ]
    about = "Each branch alone on the target, in rounds side by side. INT8 is taken only where it is shown to be faster"
    about += ", weights alone (w4, w8) where they are not shown to be slower."
    head = ["Branch", "Target", *(f"#{word}, ms" for word in kinds), "Choice", "Why"]
    return section("Precision by measurement", about, table(head, rows)) if rows else ""


def _interval(known: Interval | None, unit: str = "") -> str:
    return f"{number(known.value)}{unit}{bounds(known)}" if known else ""


def frontends(report: Report) -> str:
    """For each input whose front-end has several forms, what each took, and the choice."""
    rows = [
        [
            escape(row.input),
            escape(row.target),
            escape(name),
            _interval(form.ms) or escape(form.error),
            escape(form.precision),
            number(form.bytes / 1024),
            "<b>taken</b>" if name == row.choice else "",
        ]
        for row in report.details.frontends
        for name, form in row.forms.items()
    ]
    about = (
        "The fixed operations between what the box has and what the model receives, alone on the target, each in its fastest float type."
    )
    return (
        section("Front-ends by measurement", about, table(["Input", "Target", "Form", "#p50, ms", "Ran in", "#KiB", ""], rows))
        if rows
        else ""
    )


def runtime_options(report: Report) -> str:
    """What the runtime was tried with, and what was taken."""
    trials = report.details.runtime_options
    names = list(dict.fromkeys(name for row in trials for name in row.options))
    rows = [
        [
            escape(row.target),
            *(escape(str(row.options.get(name, ""))) for name in names),
            "" if row.p50_ms is None else _interval(Interval(row.p50_ms, row.low_ms, row.high_ms)),
            escape(row.precision_ran),
            "<b>taken</b>" if row.taken else escape(row.note),
        ]
        for row in trials
    ]
    about = (
        "The compressed graph with each, side by side on one sample. Preferred: fewer threads at up to 5 %, more precision at up to 2 %."
    )
    head = ["Target", *names, "#p50, ms", "Ran in", ""]
    return section("Runtime options by measurement", about, table(head, rows)) if len(rows) > 1 else ""


def guard(report: Report) -> str:
    """What was tried to keep the accuracy budgets, in order."""
    attempts = report.details.guard
    if len(attempts) < 2:  # all in INT8 kept them
        return ""
    outputs = list(dict.fromkeys(name for row in attempts for name in row.outputs))
    rows = [
        [
            escape(row.step),
            escape(row.target),
            *(_interval(loss, f" {escape(loss.unit)}") if (loss := row.outputs.get(name)) else "" for name in outputs),
            f"{row.size_mib:.3g}" if row.size_mib is not None else "",
            escape(row.decision),
        ]
        for row in attempts
    ]
    about = "Accuracy lost against the original on val, with the paired interval, as the target runs it. Test rows decide nothing."
    return section("Accuracy guard", about, table(["Tried", "Target", *(f"#{name}" for name in outputs), "#MiB", "Decision"], rows))
