"""Sections of the report page about what was chosen by measurement: precision of branches, runtime options, what keeps accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from edgemm.contracts.report import Report
from edgemm.report.formatting import number
from edgemm.report.sections import section, table


def precision(report: Report) -> str:
    """For each branch, its time alone in every precision, and the choice."""
    choices = report.details.precision
    kinds = list(dict.fromkeys(word for row in choices for word in row.get("ms") or {}))
    rows = [
        [
            escape(str(row["branch"])),
            escape(str(row.get("target") or "")),
            *(_milliseconds((row.get("ms") or {}).get(word)) for word in kinds),
            f"<b>{escape(str(row['choice']))}</b>",
            escape(str(row.get("reason") or "")),
        ]
        for row in choices
    ]
    about = "Each branch alone on the target, in rounds side by side. INT8 is taken only where it is shown to be faster."
    head = ["Branch", "Target", *(f"#{word}, ms" for word in kinds), "Choice", "Why"]
    return section("Precision by measurement", about, table(head, rows)) if rows else ""


def _milliseconds(ms: Mapping[str, Any] | None) -> str:
    if ms is None:
        return ""
    interval = "" if ms.get("low") is None else f"<small>{number(ms['low'])} … {number(ms['high'])}</small>"
    return f"{number(ms['value'])}{interval}"


def runtime_options(report: Report) -> str:
    """What the runtime was tried with, and what was taken."""
    trials = report.details.runtime_options
    names = list(dict.fromkeys(name for row in trials for name in row["options"]))
    rows = [
        [
            escape(str(row.get("target") or "")),
            *(escape(str(row["options"].get(name, ""))) for name in names),
            ""
            if row.get("p50_ms") is None
            else _milliseconds({"value": row["p50_ms"], "low": row.get("low_ms"), "high": row.get("high_ms")}),
            escape(str(row.get("precision_ran") or "")),
            "<b>taken</b>" if row.get("taken") else escape(str(row.get("note") or "")),
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
    outputs = list(dict.fromkeys(name for row in attempts for name in row.get("outputs") or {}))
    rows = [
        [
            escape(str(row["step"])),
            escape(str(row.get("target") or "")),
            *(_lost((row.get("outputs") or {}).get(name)) for name in outputs),
            f"{row['size_mib']:.3g}" if row.get("size_mib") is not None else "",
            escape(str(row.get("decision") or "")),
        ]
        for row in attempts
    ]
    about = "Accuracy lost against the original on val, with the paired interval, as the target runs it. Test rows decide nothing."
    return section("Accuracy guard", about, table(["Tried", "Target", *(f"#{name}" for name in outputs), "#MiB", "Decision"], rows))


def _lost(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return ""
    interval = "" if entry.get("low") is None else f"<small>{number(entry['low'])} … {number(entry['high'])}</small>"
    return f"{number(entry['value'])} {escape(str(entry.get('unit') or ''))}{interval}"
