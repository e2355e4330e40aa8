"""The section of the report page on the boxes that a model finds: precision over recall, each label's figures, kinds of mistakes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

import numpy as np

from edgemm.contracts.detection_parts import KINDS, Detected, Found, LabelFound
from edgemm.contracts.report import Report
from edgemm.report import charts
from edgemm.report.sections import by_output, section, table

CHARTED = 12  # labels; of more than that those are drawn that lost the most, or are found worst
SHARES: Mapping[str, Callable[[LabelFound], float]] = {
    "#AP": lambda label: label.ap,
    "#AP50": lambda label: label.ap50,
    "#Precision": lambda label: label.precision,
    "#Recall": lambda label: label.recall,
}


def detections(report: Report) -> str:
    """What each output finds, before and after."""
    every = report.details.detected
    parts = by_output({name: _output(detected) for name, detected in every.items()})
    about = (
        "AP: average precision over overlaps of 0.5 to 0.95. Curves, precision, recall and kinds of mistakes are at an overlap of 0.5; "
        "all but the curves count boxes from the score on that gives their label the best F1 on these rows."
    )
    return section("Boxes found", about, parts) if parts else ""


def _output(detected: Detected) -> str:
    forms = {"before": detected.before, "after": detected.after} if detected.before else {"": detected.after}
    mean = _chart({word: [label.curve for label in form.labels] for word, form in forms.items()})
    drawn = f"<div><h3>Mean over labels</h3>{mean}</div>" if mean else ""
    labels = _by_label(detected, forms) if len(detected.after.labels) > 1 else ""
    return f'<div class="panels">{drawn}<div><h3>Kinds of mistakes</h3>{_mistakes(forms)}</div></div>{_figures(detected)}{labels}'


def _chart(forms: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """Precision over recall, a line a form: the mean of its curves, up to the largest recall that one of them reaches; "" without one."""
    series, told = {}, {}
    for word, curves in forms.items():
        known = [curve for curve in curves if len(curve) > 1]
        if not known:
            continue
        mean = np.mean(np.array(known, np.float64), axis=0)
        last, name = int(np.flatnonzero(mean).max(initial=0)), f"{word} AP50".strip()
        series[name] = [(place / (len(mean) - 1), float(value)) for place, value in enumerate(mean[: last + 1])]
        told[name] = _percent(float(mean.mean()))
    return charts.lines(series, x_label="precision over recall", shares=True, told=told)


def _by_label(detected: Detected, forms: Mapping[str, Found]) -> str:
    """A chart for each label."""
    was = {label.label: label.ap for label in detected.before.labels} if detected.before else {}
    known = [label for label in detected.after.labels if len(label.curve) > 1]
    lost = {label.label: label.ap - was.get(label.label, 0.0) for label in known}
    chosen = {label.label for label in sorted(known, key=lambda label: lost[label.label])[:CHARTED]}
    panels = "".join(
        f"<div><h3>{escape(label.label)}</h3>"
        f"{_chart({word: [one.curve for one in form.labels if one.label == label.label] for word, form in forms.items()})}</div>"
        for label in known
        if label.label in chosen
    )
    words = "Each label" if len(chosen) == len(known) else f"The {len(chosen)} of {len(known)} labels that {_worst(detected)}"
    return f'<details><summary>{words}</summary><div class="panels">{panels}</div></details>' if panels else ""


def _worst(detected: Detected) -> str:
    return "lost the most" if detected.before else "are found worst"


def _figures(detected: Detected) -> str:
    """A row a label; one that no row has shows how many there are, none."""
    before = {label.label: label for label in detected.before.labels} if detected.before else {}
    rows = [
        [escape(label.label), f"{label.there}", *(_share(before.get(label.label), label, value) for value in SHARES.values())]
        for label in detected.after.labels
    ]
    drawn = table(["Label", "#Boxes", *SHARES], rows)
    hidden = len(rows) > 2 * CHARTED
    return f"<details><summary>{len(rows)} labels</summary>{drawn}</details>" if hidden else f'<div class="below">{drawn}</div>'


def _share(before: LabelFound | None, after: LabelFound, value: Callable[[LabelFound], float]) -> str:
    was, now = _percent(value(before)) if before else "", _percent(value(after))
    return now if not was or was == now else f"{was} &rarr; {now}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if math.isfinite(share) else ""


def _mistakes(forms: Mapping[str, Found]) -> str:
    kinds = list(dict.fromkeys(kind for form in forms.values() for kind in form.mistakes))
    rows = [
        [f"{escape(kind)}<small>{escape(KINDS.get(kind, ''))}</small>", *(str(form.mistakes.get(kind, 0)) for form in forms.values())]
        for kind in kinds
    ]
    return table(["Boxes", *(f"#{word.capitalize() or 'Count'}" for word in forms)], rows, stack=False)
