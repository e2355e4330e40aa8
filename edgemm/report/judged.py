"""The section of the report page on labels: how well each is told from all others, and how far chances mean what they say."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

from edgemm.contracts.judged_parts import Judged, LabelJudged, Reliability
from edgemm.contracts.report import Report
from edgemm.report import charts
from edgemm.report.sections import by_output, section, table

DRAWN = 6  # lines of one plot that a person can tell apart
LISTED = 24  # labels; a longer table is folded
EXACT = "exact"
FIGURES: Mapping[str, Callable[[LabelJudged], float]] = {
    "#Precision": lambda label: label.precision,
    "#Recall": lambda label: label.recall,
    "#AUROC": lambda label: label.auroc,
    "#AP": lambda label: label.average_precision,
    "#Sensitivity": lambda label: label.sensitivity,
}


def judged(report: Report) -> str:
    """Curves and figures of each labelled output; of before, where it is known, the figures."""
    every = report.details.judged
    parts = by_output({name: _output(one) for name, one in every.items()})
    shares = [label.specificity for one in every.values() for label in one.after]
    about = (
        "Each label against all others. ROC: how many with the label are found over how many without it are taken for it. AP: mean "
        f"precision over recall. Sensitivity: what is found where {100 * (shares or [0.0])[0]:g} % of those without it are left out. "
        "Reliability: of answers that are so sure, how many are right; ECE is the mean distance."
    )
    return section("Labels", about, parts) if parts else ""


def _output(one: Judged) -> str:
    worst = sorted((label for label in one.after if label.roc), key=lambda label: label.auroc)[:DRAWN]
    roc = charts.lines({label.label: label.roc for label in worst}, x_label="false positives", shares=True, told=_told(worst, "auroc"))
    curve = charts.lines(
        {label.label: label.precision_recall for label in worst}, x_label="recall", shares=True, told=_told(worst, "average_precision")
    )
    chosen = "" if len(worst) == len(one.after) else f" <small>the {len(worst)} labels told worst</small>"
    panels = [("ROC", roc), ("Precision over recall", curve), ("Reliability", _reliability(one))]
    drawn = "".join(f"<div><h3>{title}{chosen * (title != 'Reliability')}</h3>{chart}</div>" for title, chart in panels if chart)
    return f'<div class="panels">{drawn}</div>{_figures(one)}'


def _told(labels: Sequence[LabelJudged], figure: str) -> dict[str, str]:
    return {label.label: f"{getattr(label, figure):.3f}" for label in labels}


def _reliability(one: Judged) -> str:
    forms: dict[str, Reliability] = {"before": one.known_before, "after": one.known} if one.known_before else {"ECE": one.known}
    points = {EXACT: [(0.0, 0.0), (1.0, 1.0)]} | {word: [(sure, right) for sure, right, _ in known.points] for word, known in forms.items()}
    return charts.lines(
        points, x_label="how sure", shares=True, told={EXACT: ""} | {word: f"{known.ece:.3f}" for word, known in forms.items()}
    )


def _figures(one: Judged) -> str:
    before = {label.label: label for label in one.before}
    rows = [
        [escape(label.label), str(label.n), *(_figure(before.get(label.label), label, value) for value in FIGURES.values())]
        for label in one.after
    ]
    drawn = table(["Label", "#Rows", *FIGURES], rows)
    folded = len(rows) > LISTED
    return f"<details><summary>{len(rows)} labels</summary>{drawn}</details>" if folded else f'<div class="below">{drawn}</div>'


def _figure(before: LabelJudged | None, after: LabelJudged, value: Callable[[LabelJudged], float]) -> str:
    was, now = _share(value(before)) if before else "", _share(value(after))
    return now if not was or was == now else f"{was} &rarr; {now}"


def _share(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else ""
