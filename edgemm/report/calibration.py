"""How far the chances of joined members mean what they say: a reliability plot a head, and the numbers behind it."""

from __future__ import annotations

from html import escape

from edgemm.contracts.report import Report
from edgemm.report import charts
from edgemm.report.sections import section, table

EXACT = "exact"
DRAWN = 6  # lines of one plot that a person can tell apart


def calibration(report: Report) -> str:
    """A plot for each head, and the expected calibration error of every form."""
    rows = report.details.calibration
    panels = "".join(_panel(report, output) for output in dict.fromkeys(row.output for row in rows))
    cells = [
        [
            escape(row.form),
            escape(row.output),
            escape(row.rule),
            f"{row.known.ece:.3f}",
            str(sum(count for _, _, count in row.known.points)),
        ]
        for row in rows
    ]
    about = (
        "Of the answers that are so and so sure, how many are right; a calibrated model lies on the diagonal. ECE is the mean distance. "
        "Each subset of members has a joint and a calibration of its own, fitted on val and, after quantizing, fitted again."
    )
    every = table(["Who answers", "Head", "Joined by", "#ECE", "#Answers"], cells)
    return section("Calibration", about, f'<div class="panels">{panels}</div>{every}') if rows else ""


def _panel(report: Report, output: str) -> str:
    rows = [row for row in report.details.calibration if row.output == output][-(DRAWN - 1) :]
    lines = {EXACT: [(0.0, 0.0), (1.0, 1.0)]} | {row.form: [(sure, right) for sure, right, _ in row.known.points] for row in rows}
    drawn = charts.lines(lines, x_label="how sure")
    return f"<div><h3>{escape(output)} <small>how often right</small></h3>{drawn}</div>"
