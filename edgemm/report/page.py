"""One offline page that shows a report: no outside part, no script, light and dark, wide and narrow.

Whatever the report lacks is left out of the page, so that it serves ``train`` (curves), ``benchmark`` (measurements) and ``compress``
(everything) alike.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from edgemm.contracts.report import Measurement, Report, Variant
from edgemm.contracts.report_parts import Details
from edgemm.report import charts
from edgemm.report.applied import applied
from edgemm.report.augmented import augmented
from edgemm.report.calibration import calibration
from edgemm.report.charts import Bar
from edgemm.report.chosen import frontends, guard, precision, runtime_options
from edgemm.report.detections import detections
from edgemm.report.formatting import in_unit, name_of, number, shown, unit_of
from edgemm.report.gates import gates
from edgemm.report.headline import lead, tiles
from edgemm.report.judged import judged
from edgemm.report.measured import measured
from edgemm.report.modalities import modalities
from edgemm.report.pictured import pictured
from edgemm.report.searched import searched
from edgemm.report.sections import branches, curves, environment, files, parity, ratios, section, steps, table
from edgemm.report.sensitivity import sensitivity
from edgemm.store.artifact import write_bytes

STYLE = Path(__file__).with_name("report.css")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
FOOT = "Written by edgemm. Intervals are 95 %. The same numbers, for machines: report.json."
SUBJECTS = {
    "original": "the trained model, fp32",
    "float": "the same runtime, forced to f32",
    "default": "the same runtime as it comes",
    "bundle": "what the bundle runs",
}


def render(report: Report) -> str:
    """The report as one HTML file."""
    title = str(report.details.title or _title(report.details))
    return document(title, lead(report), "".join(part for part in (draw(report) for draw in SECTIONS) if part))


def document(title: str, below: str, body: str, foot: str = FOOT) -> str:
    """A whole page; ``title`` and ``foot`` are text, ``below`` and ``body`` are HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><meta name="color-scheme" content="light dark">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title>\n<style>{STYLE.read_text(encoding="utf-8")}</style></head>\n'
        f"<body><main><header><h1>{escape(title)}</h1>{below}</header>\n{body}<footer>{escape(foot)}</footer></main></body></html>\n"
    )


def write(report: Report, folder: Path) -> None:
    """``report.json`` and its page ``report.html`` in ``folder``.

    Raises:
        OutputError: They cannot be written there.
    """
    report.save(folder / "report.json")
    write_bytes(folder / "report.html", render(report).encode())


def _title(details: Details) -> str:
    card, recipe = details.card, details.recipe
    return f"{card}, compressed with {recipe}" if card and recipe else str(card or "edgemm report")


def _notes(report: Report) -> str:
    notes = report.details.notes
    listed = "".join(f"<li>{escape(str(note))}</li>" for note in notes)
    return f'<section class="notes"><h2>Worth knowing</h2><ul>{listed}</ul></section>' if notes else ""


def _budgets(report: Report) -> str:
    if not report.budgets:
        return ""
    moods = {"met": ("good", "✓ met"), "missed": ("bad", "✕ missed"), "unknown": ("doubt", "? unknown")}
    rows = []
    for v in report.budgets:
        mood, word = moods.get(v.verdict, ("doubt", v.verdict))
        mood, word = ("doubt" if v.verdict == "met" else mood, f"{word}, unsure") if v.uncertain else (mood, word)
        unit = escape(unit_of(v.name) if v.unit is None else v.unit)
        value = "not measured" if v.value is None else f"{number(v.value)} {unit}".rstrip()
        interval = "" if v.low is None or v.high is None else f"<small>{number(v.low)} … {number(v.high)}</small>"
        name = name_of(v.name, v.output)
        badge = f'<span class="badge {mood}">{escape(word)}</span>'
        rows.append([escape(name), escape(v.target or ""), f"{value}{interval}", f"{number(v.limit)} {unit}".rstrip(), badge])
    head = ["Budget", "Target", "#Measured", "#Limit", "#Verdict"]
    return section("Budgets", "A verdict is unsure where the interval reaches across the limit.", table(head, rows))


def _before_and_after(report: Report) -> str:
    variants = report.variants()
    panels = [_panel(variants, name, None, charts.bars) for name in ("size_mib", "latency_p50_ms", "latency_p95_ms", "peak_rss_mib")]
    guarded = dict.fromkeys((m.name, m.output) for m in report.measurements if m.output and m.name != "accuracy_drop_points")
    for name, output in guarded:
        percent = any(m.unit == "ratio" for m in report.find(name, output=output))
        panels.append(_panel(variants, name, output, functools.partial(charts.dots, percent=percent)))
    if not any(panels):
        return ""
    legend = "".join(_key(subject) for subject in SUBJECTS if any(variant.subject == subject for variant in variants))
    every = f"<details><summary>Every number</summary>{_everynumber(report, variants)}</details>"
    title = "Before and after" if len({variant.subject for variant in variants}) > 1 else "Measurements"
    return section(title, "", f'<div class="legend">{legend}</div><div class="panels">{"".join(panels)}</div>{every}')


def _key(subject: str) -> str:
    name = "compressed" if subject == "bundle" else subject
    return f'<span class="key k-{subject}"><i class="swatch"></i>{name} <small>{SUBJECTS[subject]}</small></span>'


def _panel(variants: Sequence[Variant], name: str, output: str | None, draw: Callable[[Sequence[Bar]], str]) -> str:
    pairs = [(variant, m) for variant in variants if (m := variant.get(name, output))]
    rows = [Bar(variant.label, m.value, shown(m), variant.precision, variant.subject, m.low, m.high) for variant, m in pairs]
    title = name_of(name, output)
    better = "higher is better" if pairs and pairs[0][1].better == "higher" else "lower is better"
    return f"<div><h3>{escape(title)} <small>{better}</small></h3>{draw(rows)}</div>" if rows else ""


def _everynumber(report: Report, variants: Sequence[Variant]) -> str:
    keys = dict.fromkeys((m.name, m.output) for variant in variants for m in variant.measurements)
    rows = []
    for name, output in keys:
        cells = [f"{escape(name_of(name))}{f' <small>{escape(output)}</small>' if output else ''}"]
        for variant in variants:
            m = variant.get(name, output)
            cells.append(_cell(m) if m else "")
        rows.append(cells)
    asked = [next((m.precision_asked for m in variant.measurements if m.precision_asked), "") or "" for variant in variants]
    ran = [next((m.precision_ran for m in variant.measurements if m.precision_ran), "") or "" for variant in variants]
    first = [["Precision asked for", *map(escape, asked)]] * any(asked) + [["Precision that ran", *map(escape, ran)]] * any(ran)
    return table(["", *(f"#{variant.label}" for variant in variants)], first + rows, stack=False)


def _cell(m: Measurement) -> str:
    interval = "" if m.low is None or m.high is None else f"{in_unit(m, m.low)} … {in_unit(m, m.high)}"
    count = f"n = {m.n}" if m.n else ""
    small = "; ".join(word for word in (interval, count) if word)
    return f"{escape(shown(m))}{f'<small>{escape(small)}</small>' if small else ''}"


def _latency(report: Report) -> str:
    samples = report.details.latency_samples_ms
    names = {variant.candidate: variant.label for variant in report.variants() if variant.candidate}
    samples = {names.get(label, label): values for label, values in samples.items()}
    drawn = charts.ridges(samples, {label: _kind(label, report.variants()) for label in samples})
    return section("Latency distribution", "Timed calls. Solid line: median; dotted line: 95th percentile.", drawn) if drawn else ""


def _kind(label: str, variants: Sequence[Variant]) -> str:
    """The subject whose colour a curve takes: that of the variant of this name, else the subject that its words name."""
    variant_subject = next((variant.subject for variant in variants if label == variant.label), None)
    words = label.replace(",", " ").split()
    return variant_subject or next((subject for subject in SUBJECTS if subject in words), "original" if "torch" in words else "bundle")


def _confusion(report: Report) -> str:
    parts = []
    for output, confusion in report.details.confusion.items():
        pair = [(word, counts) for word, counts in (("Before", confusion.before), ("After", confusion.after)) if counts]
        heading = f"<h3>{escape(str(output))}</h3>" if len(report.details.confusion) > 1 and len(pair) > 1 else ""
        pair = pair if len(pair) > 1 else [(str(output), counts) for _, counts in pair]
        drawn = "".join(charts.matrix(confusion.labels, counts, word) for word, counts in pair)
        parts.append(f'{heading}<div class="panels">{drawn}</div>')
    about = "Rows: what is true. Columns: what was answered. Shade: share of the row; red is wrong."
    return section("Confusion matrix", about, "".join(parts)) if parts else ""


SECTIONS: tuple[Callable[[Report], str], ...] = (
    tiles, _notes, _budgets, searched, _before_and_after, _latency, ratios, measured, detections, pictured, _confusion, judged, modalities,
    gates, calibration, branches, sensitivity, precision, frontends, runtime_options, guard, applied, curves, augmented, parity, steps,
    files, environment,
)  # fmt: skip
