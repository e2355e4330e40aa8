"""Which modality matters: every head with inputs missing, before and after compression, from ``details.ledger``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from edgemm.contracts.report import Measurement, Report
from edgemm.report import charts
from edgemm.report.charts import Bar
from edgemm.report.formatting import in_unit, name_of, number, shown
from edgemm.report.sections import section, table

DRAWN_SUBSETS = 7  # of one head; the table below has all


def modalities(report: Report) -> str:
    """Dots for each head and subset, what each input adds, and every number."""
    ledger = report.details.ledger
    measured = [m for m in report.measurements if m.modalities]
    if not ledger or not measured:
        return ""
    heads = dict.fromkeys((m.name, m.output) for m in measured)
    panels = "".join(_panel([m for m in measured if (m.name, m.output) == head], head, ledger["inputs"]) for head in heads)
    words = {"original": "original", "bundle": "compressed"}
    legend = "".join(f'<span class="key k-{kind}"><i class="swatch"></i>{word}</span>' for kind, word in words.items())
    every = f"<details><summary>Every subset</summary>{_everysubset(measured)}</details>"
    body = f'{_alarm(ledger)}<div class="legend">{legend}</div><div class="panels">{panels}</div>{_contributions(ledger)}{every}'
    return section("Which modality matters", _about(ledger), body)


def _about(ledger: Mapping[str, Any]) -> str:
    rows, of = ledger.get("rows"), ledger.get("of")
    counted = f"{rows} of {of} test rows" if rows != of else f"{rows} test rows"
    elsewhere = [name for target, name in (ledger.get("where") or {}).items() if name.endswith("in ONNX Runtime")]
    note = f" Not on the target: {', '.join(elsewhere)}." if elsewhere else ""
    return f"Each head with inputs missing, on {counted}. A missing input is replaced by its mean over the training data, as in use.{note}"


def _alarm(ledger: Mapping[str, Any]) -> str:
    deaf = [row for row in ledger.get("contributions") or () if row.get("deaf")]
    words = [f"{row['input']} (for {row['output']}, on {row['target']})" for row in deaf]
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


def _contributions(ledger: Mapping[str, Any]) -> str:
    rows = []
    for row in ledger.get("contributions") or ():
        cells = [_points(row[key], row.get("unit") or "", signed=key == "change") for key in ("before", "after", "change")]
        mood, word = _verdict(row)
        target = str(row["target"] or "")
        rows.append([escape(row["input"]), escape(row["output"]), escape(target), *cells, f'<span class="badge {mood}">{word}</span>'])
    head = ["What it adds", "To", "Target", "#Before", "#After", "#Change", "#Verdict"]
    return f'<div class="below">{table(head, rows)}</div>' if rows else ""


def _verdict(row: Mapping[str, Any]) -> tuple[str, str]:
    change = row["change"]
    if row.get("deaf"):
        return "bad", "✕ no longer heard"
    if change.get("low") is None or change["low"] <= 0 <= change["high"]:
        return "good", "✓ as before"
    return ("doubt", "less") if change["value"] < 0 else ("good", "more")


def _points(score: Mapping[str, Any], unit: str, *, signed: bool) -> str:
    plus = "+" if signed and score["value"] > 0 else ""
    value = f"{plus}{number(score['value'])}" if abs(score["value"]) > 1e-9 else "0"
    interval = "" if score.get("low") is None else f"<small>{number(score['low'])} … {number(score['high'])}</small>"
    return f"{value} {escape(unit)}{interval}"


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
