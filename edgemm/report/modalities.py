"""Which modality matters: every head with inputs missing, before and after compression, from ``details.ledger``."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from edgemm.contracts.frontend_ops import COST_ROW
from edgemm.contracts.interval import Interval
from edgemm.contracts.report import Measurement, Report
from edgemm.contracts.report_parts import BranchSummary, Contribution, Listening
from edgemm.report import charts
from edgemm.report.charts import Bar
from edgemm.report.formatting import bounds, in_unit, name_of, number, shown
from edgemm.report.sections import branch_table, section, table

DRAWN_SUBSETS = 7  # of one head; the table below has all


def modalities(report: Report) -> str:
    """Dots for each head and subset, what each input adds, and every number."""
    ledger = report.details.ledger
    measured = [m for m in report.measurements if m.modalities]
    if ledger is None or not measured:
        return ""
    heads = dict.fromkeys((m.name, m.output) for m in measured)
    panels = "".join(_panel([m for m in measured if (m.name, m.output) == head], head, ledger.inputs) for head in heads)
    words = {"original": "original", "bundle": "compressed"}
    legend = "".join(f'<span class="key k-{kind}"><i class="swatch"></i>{word}</span>' for kind, word in words.items())
    every = f"<details><summary>Every subset</summary>{_everysubset(measured)}</details>"
    panels = f'<div class="legend">{legend}</div><div class="panels">{panels}</div>'
    body = f"{_alarm(ledger)}{panels}{_contributions(ledger)}{_shares(ledger)}{_costs(ledger, report.details.branches)}{every}"
    return section("Which modality matters", _about(ledger, is_joint=bool(report.details.calibration)), body)


def _about(ledger: Listening, *, is_joint: bool) -> str:
    counted = f"{ledger.rows} of {ledger.of} test rows" if ledger.rows != ledger.of else f"{ledger.rows} test rows"
    elsewhere = [name for name in ledger.where.values() if name.endswith("in ONNX Runtime")]
    note = f" Not on the target: {', '.join(elsewhere)}." if elsewhere else ""
    instead = "replaced by its mean over the training data" if not is_joint else "told as missing, and the joint of the others answers"
    return f"Each head with inputs missing, on {counted}. A missing input is {instead}, as in use.{note}"


def _alarm(ledger: Listening) -> str:
    words = [f"{row.input} (for {row.output}, on {row.target})" for row in ledger.contributions if row.deaf]
    return f'<p class="alarm">After compression the model no longer listens to {escape(", ".join(words))}.</p>' if words else ""


def _panel(measured: Sequence[Measurement], head: tuple[str, str | None], inputs: Sequence[str]) -> str:
    drawn = _drawn(list(dict.fromkeys(tuple(m.modalities or ()) for m in measured)), len(inputs))
    targets = {m.target for m in measured if m.subject == "bundle"}
    rows = []
    for subset in drawn:
        for m in (m for m in measured if tuple(m.modalities or ()) == subset):
            note = f"{m.target}" if m.subject == "bundle" and len(targets) > 1 else ""
            label = " + ".join(subset) if len(subset) < len(inputs) or len(inputs) < 3 else "all inputs"
            rows.append(Bar(label, m.value, shown(m), note, m.subject, m.low, m.high))
    percent = any(m.unit == "ratio" for m in measured)
    better = "higher is better" if measured[0].better == "higher" else "lower is better"
    return f"<div><h3>{escape(name_of(*head))} <small>{better}</small></h3>{charts.dots(rows, percent=percent)}</div>"


def _drawn(subsets: Sequence[tuple[str, ...]], inputs: int) -> list[tuple[str, ...]]:
    """All where they are few; else the whole, all but each, and each alone."""
    if len(subsets) <= DRAWN_SUBSETS:
        return list(subsets)
    return [subset for subset in subsets if len(subset) in (inputs, inputs - 1, 1)]


def _contributions(ledger: Listening) -> str:
    rows = []
    for row in ledger.contributions:
        cells = [_points(score, row.unit, signed=score is row.change) for score in (row.before, row.after, row.change)]
        mood, word = _verdict(row)
        rows.append([escape(row.input), escape(row.output), escape(row.target), *cells, f'<span class="badge {mood}">{word}</span>'])
    head = ["What it adds", "To", "Target", "#Before", "#After", "#Change", "#Verdict"]
    return f'<div class="below">{table(head, rows)}</div>' if rows else ""


def _shares(ledger: Listening) -> str:
    """Who said what, a row a label and a pair of columns an input."""
    keys = dict.fromkeys((row.target, row.output, row.label) for row in ledger.shares)
    known = {(row.target, row.output, row.label, row.input): row for row in ledger.shares}
    rows = []
    for target, output, label in keys:
        cells = [known[target, output, label, name] for name in ledger.inputs]
        rows.append(
            [escape(label), escape(output), escape(target), *(f"{row.before:.1f} &rarr; {row.after:.1f}" for row in cells), str(cells[0].n)]
        )
    head = ["What is true", "Head", "Target", *(f"#{name}" for name in ledger.inputs), "#Rows"]
    about = (
        "Mean Shapley share of each input in the chance of what is decided, in points, before and after compression; they add up to what "
        "all inputs together add to the chance that is given without any."
    )
    return f"<details><summary>Who said what</summary><p>{about}</p>{table(head, rows)}</details>" if rows else ""


def _costs(ledger: Listening, branches: Sequence[BranchSummary]) -> str:
    """Beside what each input adds what it costs: its front-end and its branch."""
    rows = [row for row in branches if row.branch.removeprefix(COST_ROW) in ledger.inputs]
    return f"<details><summary>What each input costs</summary>{branch_table(rows)}</details>" if rows else ""


def _verdict(row: Contribution) -> tuple[str, str]:
    low, high = row.change.low, row.change.high
    if row.deaf:
        return "bad", "✕ no longer heard"
    if low is None or high is None or low <= 0 <= high:
        return "good", "✓ as before"
    return ("doubt", "less") if row.change.value < 0 else ("good", "more")


def _points(score: Interval, unit: str, *, signed: bool) -> str:
    plus = "+" if signed and score.value > 0 else ""
    value = f"{plus}{number(score.value)}" if abs(score.value) > 1e-9 else "0"
    return f"{value} {escape(unit)}{bounds(score)}"


def _everysubset(measured: Sequence[Measurement]) -> str:
    forms = dict.fromkeys((m.subject, m.target if m.subject == "bundle" else None) for m in measured)
    rows = []
    for name, output, subset in dict.fromkeys((m.name, m.output, tuple(m.modalities or ())) for m in measured):
        cells = [escape(" + ".join(subset)), escape(name_of(name, output))]
        for subject, target in forms:
            key = (name, output, subset, subject)
            m = next((m for m in measured if (m.name, m.output, tuple(m.modalities or ()), m.subject) == key
                      and target in (None, m.target)), None)  # fmt: skip
            interval = (
                f"<small>{in_unit(m, m.low)} … {in_unit(m, m.high)}</small>" if m and m.low is not None and m.high is not None else ""
            )
            cells.append(f"{escape(shown(m))}{interval}" if m else "")
        rows.append(cells)
    head = ["There", "Metric", *(f"#{'original' if subject == 'original' else target}" for subject, target in forms)]
    return table(head, rows)
