"""One offline page that shows a report: no outside part, no script, light and dark, wide and narrow.

Whatever the report lacks is left out of the page, so that it serves ``train`` (curves), ``benchmark`` (measurements) and ``compress``
(everything) alike.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from edgemm import _charts
from edgemm._charts import Bar
from edgemm._report_sections import branches, curves, environment, files, parity, ratios, section, steps, table
from edgemm.report import Measurement, Report, Variant, Verdict

STYLE = Path(__file__).with_name("report.css")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
ABOUT_EQUAL = 0.03  # a ratio this near to 1 is called "the same": below what repeated runs reproduce
NAMES = {
    "latency_p50_ms": "Latency, median", "latency_p90_ms": "Latency, 90th percentile", "latency_p95_ms": "Latency, 95th percentile",
    "latency_p99_ms": "Latency, 99th percentile", "load_ms": "Load", "first_ms": "First inference", "cold_start_ms": "Cold start",
    "peak_rss_mib": "Peak memory", "size_mib": "Size", "energy_mj": "Energy an inference", "macs": "Multiply-accumulates",
    "parameters": "Parameters", "accuracy": "Accuracy", "f1": "Macro F1", "mae": "Mean absolute error", "recall_at_1": "Recall@1",
    "sqnr_db": "Signal to error (SQNR)", "accuracy_drop_points": "Loss against the original",
}  # fmt: skip
UNITS = {"_points": "points", "_ms": "ms", "_mib": "MiB"}
SUBJECTS = {
    "original": "the trained model, fp32",
    "float": "the same runtime, forced to f32",
    "default": "the same runtime as it comes",
    "bundle": "what the bundle runs",
}


def render(report: Report) -> str:
    """The report as one HTML file."""
    title = str(report.details.get("title") or _title(report.details))
    body = "".join(part for part in (draw(report) for draw in SECTIONS) if part)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><meta name="color-scheme" content="light dark">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title>\n<style>{STYLE.read_text(encoding="utf-8")}</style></head>\n'
        f"<body><main><header><h1>{escape(title)}</h1>{_lead(report)}</header>\n{body}"
        f"<footer>Written by edgemm. Intervals are 95 %. The same numbers, for machines: report.json.</footer></main></body></html>\n"
    )


def _title(details: Mapping[str, Any]) -> str:
    card, recipe = details.get("card"), details.get("recipe")
    return f"{card}, compressed with {recipe}" if card and recipe else str(card or "edgemm report")


def _lead(report: Report) -> str:
    """The result in one sentence for each target, and the machine."""
    words = []
    for compressed in (variant for variant in report.variants() if variant.subject == "bundle"):
        facts = [fact for fact in (_size(report, compressed), _speed(report, compressed)) if fact]
        said = [f"{fact[1]} {fact[2]}" for fact in facts] + [f"{m.output or 'accuracy'} {_loss_words(m)}" for m in _losses(compressed)]
        words += [f"{compressed.label}: {', '.join(said)}."] if said else []
    device = report.environment.get("device")
    words += [f"Measured on {device}."] if device and report.measurements else []
    return f'<p class="lead">{escape(" ".join(words))}</p>' if words else ""


def _tiles(report: Report) -> str:
    compressed = [variant for variant in report.variants() if variant.subject == "bundle"]
    parts = []
    for variant in compressed:
        tiles = [_fact_tile(fact) for fact in (_size(report, variant), _speed(report, variant)) if fact]
        tiles += [_loss_tile(report, variant, loss) for loss in _losses(variant)]
        tiles += [_budget_tile([v for v in report.budgets if v.target == variant.target])]
        heading = f'<p class="group">{escape(variant.label)}</p>' if len(compressed) > 1 else ""
        parts.append(f'{heading}<dl class="tiles">{"".join(tiles)}</dl>' if any(tiles) else "")
    return "".join(parts)


def _fact_tile(fact: tuple[str, str, str, str, str]) -> str:
    name, big, word, sub, mood = fact
    return _tile(name, f"{escape(big)} <small>{escape(word)}</small>", sub, mood)


def _tile(name: str, big: str, sub: str, mood: str) -> str:
    return f'<div class="tile {mood}"><dt>{escape(name)}</dt><dd class="big">{big}</dd><dd class="sub">{escape(sub)}</dd></div>'


def _size(report: Report, compressed: Variant) -> tuple[str, str, str, str, str] | None:
    return _ratio(report, compressed, "size_mib", "Size", ("smaller", "larger"), "MiB")


def _speed(report: Report, compressed: Variant) -> tuple[str, str, str, str, str] | None:
    fact = _ratio(report, compressed, "latency_p50_ms", "Latency, median", ("faster", "slower"), "ms")
    now = compressed.get("latency_p50_ms")
    for other in report.variants():
        then = other.get("latency_p50_ms")
        if fact and now and then and other.subject == "default" and other.target == compressed.target and now.value > 0:
            return (*fact[:3], f"{fact[3]}; {_times(then.value / now.value, ('faster than', 'slower than'))} its default", fact[4])
    return fact


def _ratio(
    report: Report, compressed: Variant, name: str, title: str, words: tuple[str, str], unit: str
) -> tuple[str, str, str, str, str] | None:
    """(title, ratio, word, explanation, mood) against the same target in float, or else the original."""
    now = compressed.get(name)
    others = sorted(report.variants(), key=lambda other: other.candidate != compressed.candidate)
    for subject in ("float", "default", "original"):
        for other in others:
            then = other.get(name)
            if other.subject == subject and other.target in (None, compressed.target) and now and then and min(now.value, then.value) > 0:
                times = then.value / now.value
                big, _, word = _times(times, words).rpartition(" ")
                against = (
                    "the original" if subject == "original" else f"{compressed.target} in float" if subject == "float" else "its default"
                )
                sub = f"{_number(then.value)} → {_number(now.value)} {unit}, against {against}"
                return title, big or "the", word, sub, "good" if times > 1 + ABOUT_EQUAL else "bad" if times < 1 - ABOUT_EQUAL else "doubt"
    return None


def _times(ratio: float, words: tuple[str, str]) -> str:
    if abs(ratio - 1) <= ABOUT_EQUAL:
        return "the same" if " " not in words[0] else "as fast as"
    factor, word = (ratio, words[0]) if ratio > 1 else (1 / ratio, words[1])
    return f"{factor:.0f}× {word}" if factor >= 20 else f"{factor:.1f}× {word}" if factor >= 1.1 else f"{factor:.2f}× {word}"


def _losses(compressed: Variant) -> list[Measurement]:
    return [m for m in compressed.measurements if m.name == "accuracy_drop_points" and math.isfinite(m.value)]


def _loss_words(loss: Measurement) -> str:
    sign = "−" if loss.value > 0 else "+" if loss.value < 0 else "±"
    return (
        f"{sign}{abs(loss.value):.2f} {loss.unit or 'points'}" if loss.unit in ("", "points") else f"{loss.value:+.2g} {loss.unit} of error"
    )


def _loss_tile(report: Report, compressed: Variant, loss: Measurement) -> str:
    guarded = [m for m in compressed.measurements if m.output == loss.output and m.name != loss.name]
    before = [
        m for m in report.measurements if guarded and m.subject == "original" and (m.name, m.output) == (guarded[0].name, loss.output)
    ]
    sub = f"{_shown(before[0])} → {_shown(guarded[0])}" if before and guarded else ""
    if loss.low is not None and loss.high is not None:
        ends = (-loss.high, -loss.low) if loss.unit in ("", "points") else (loss.low, loss.high)
        sub += f"{'; ' if sub else ''}95 %: {ends[0]:+.2f} … {ends[1]:+.2f}".replace("-", "−")
    verdict = next((v for v in report.budgets if v.name == loss.name and v.target == compressed.target and v.output == loss.output), None)
    mood = {"met": "doubt" if verdict and verdict.uncertain else "good", "missed": "bad"}.get(verdict.verdict, "") if verdict else ""
    name = NAMES.get(guarded[0].name, guarded[0].name) if guarded else "Accuracy"
    big, _, unit = _loss_words(loss).partition(" ")
    return _tile(f"{name}, {loss.output}" if loss.output else name, f"{escape(big)} <small>{escape(unit)}</small>", sub, mood)


def _budget_tile(verdicts: Sequence[Verdict]) -> str:
    if not verdicts:
        return ""
    met = sum(v.verdict == "met" for v in verdicts)
    missed = [v for v in verdicts if v.verdict == "missed"]
    unknown = [v for v in verdicts if v.verdict == "unknown"]
    unsure = [v for v in verdicts if v.verdict == "met" and v.uncertain]
    said = [(missed, "missed"), (unknown, "unknown"), (unsure, "met, but within the interval")]
    sub = "; ".join(f"{word}: {', '.join(_budget_name(v) for v in found)}" for found, word in said if found) or "every budget holds"
    return _tile(
        "Budgets", f"{met} of {len(verdicts)} <small>met</small>", sub, "bad" if missed else "doubt" if unknown or unsure else "good"
    )


def _budget_name(verdict: Verdict) -> str:
    return f"{NAMES.get(verdict.name, verdict.name).lower()}{f' of {verdict.output}' if verdict.output else ''}"


def _notes(report: Report) -> str:
    notes = report.details.get("notes") or ()
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
        unit = next((word for end, word in UNITS.items() if v.name.endswith(end)), "")
        value = "not measured" if v.value is None else f"{_number(v.value)} {unit}"
        interval = "" if v.low is None or v.high is None else f"<small>{_number(v.low)} … {_number(v.high)}</small>"
        name = NAMES.get(v.name, v.name) + (f", {v.output}" if v.output else "")
        badge = f'<span class="badge {mood}">{escape(word)}</span>'
        rows.append([escape(name), escape(v.target or ""), f"{escape(value)}{interval}", f"{_number(v.limit)} {unit}", badge])
    head = ["Budget", "Target", "#Measured", "#Limit", "#Verdict"]
    return section("Budgets", "A verdict is unsure where the interval reaches across the limit.", table(head, rows))


def _before_and_after(report: Report) -> str:
    variants = report.variants()
    panels = [_panel(variants, name, None, _charts.bars) for name in ("size_mib", "latency_p50_ms", "latency_p95_ms", "peak_rss_mib")]
    guarded = dict.fromkeys((m.name, m.output) for m in report.measurements if m.output and m.name != "accuracy_drop_points")
    for name, output in guarded:
        percent = any(m.unit == "ratio" for m in report.find(name, output=output))
        panels.append(_panel(variants, name, output, functools.partial(_charts.dots, percent=percent)))
    if not any(panels):
        return ""
    legend = "".join(_key(subject) for subject in SUBJECTS if any(variant.subject == subject for variant in variants))
    every = f"<details><summary>Every number</summary>{_every_number(report, variants)}</details>"
    title = "Before and after" if len({variant.subject for variant in variants}) > 1 else "Measurements"
    return section(title, "", f'<div class="legend">{legend}</div><div class="panels">{"".join(panels)}</div>{every}')


def _key(subject: str) -> str:
    name = "compressed" if subject == "bundle" else subject
    return f'<span class="key k-{subject}"><i class="swatch"></i>{name} <small>{SUBJECTS[subject]}</small></span>'


def _panel(variants: Sequence[Variant], name: str, output: str | None, draw: Callable[[Sequence[Bar]], str]) -> str:
    found = [(variant, m) for variant in variants if (m := variant.get(name, output))]
    rows = [Bar(variant.label, m.value, _shown(m), variant.precision, variant.subject, m.low, m.high) for variant, m in found]
    title = NAMES.get(name, name) + (f", {output}" if output else "")
    better = "higher is better" if found and found[0][1].better == "higher" else "lower is better"
    return f"<div><h3>{escape(title)} <small>{better}</small></h3>{draw(rows)}</div>" if rows else ""


def _every_number(report: Report, variants: Sequence[Variant]) -> str:
    keys = dict.fromkeys((m.name, m.output) for variant in variants for m in variant.measurements)
    rows = []
    for name, output in keys:
        cells = [f"{escape(NAMES.get(name, name))}{f' <small>{escape(output)}</small>' if output else ''}"]
        for variant in variants:
            m = variant.get(name, output)
            cells.append(_cell(m) if m else "")
        rows.append(cells)
    asked = [next((m.precision_asked for m in variant.measurements if m.precision_asked), "") or "" for variant in variants]
    ran = [next((m.precision_ran for m in variant.measurements if m.precision_ran), "") or "" for variant in variants]
    first = [["Precision asked for", *map(escape, asked)]] * any(asked) + [["Precision that ran", *map(escape, ran)]] * any(ran)
    return table(["", *(f"#{variant.label}" for variant in variants)], first + rows, stack=False)


def _cell(m: Measurement) -> str:
    interval = "" if m.low is None or m.high is None else f"{_in_unit(m, m.low)} … {_in_unit(m, m.high)}"
    count = f"n = {m.n}" if m.n else ""
    small = "; ".join(word for word in (interval, count) if word)
    return f"{escape(_shown(m))}{f'<small>{escape(small)}</small>' if small else ''}"


def _shown(m: Measurement) -> str:
    return f"{_in_unit(m, m.value)} {'%' if m.unit == 'ratio' else m.unit}".strip()


def _in_unit(m: Measurement, value: float) -> str:
    return f"{100 * value:.2f}" if m.unit == "ratio" else _number(value)


def _number(value: float) -> str:
    """Three digits, or thousands grouped; a dash where there is no number."""
    if not math.isfinite(value):
        return "–"
    words = f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}" if abs(value) >= 0.001 else f"{value:.3g}"
    return words.replace("-", "−", 1)


def _latency(report: Report) -> str:
    samples = report.details.get("latency_samples_ms") or {}
    names = {variant.candidate: variant.label for variant in report.variants() if variant.candidate}
    samples = {names.get(label, label): values for label, values in samples.items()}
    drawn = _charts.ridges(samples, {label: _kind(label, report.variants()) for label in samples})
    return section("Latency distribution", "Timed calls. Solid line: median; dotted line: 95th percentile.", drawn) if drawn else ""


def _kind(label: str, variants: Sequence[Variant]) -> str:
    """The subject whose colour a curve takes: that of the variant of this name, else the subject that its words name."""
    known = next((variant.subject for variant in variants if label == variant.label), None)
    words = label.replace(",", " ").split()
    return known or next((subject for subject in SUBJECTS if subject in words), "original" if "torch" in words else "bundle")


def _confusion(report: Report) -> str:
    parts = []
    for output, found in (report.details.get("confusion") or {}).items():
        pair = [(word, found[key]) for key, word in (("before", "Before"), ("after", "After")) if found.get(key)]
        heading = f"<h3>{escape(str(output))}</h3>" if len(report.details["confusion"]) > 1 and len(pair) > 1 else ""
        pair = pair if len(pair) > 1 else [(str(output), counts) for _, counts in pair]
        drawn = "".join(_charts.matrix(found["labels"], counts, word) for word, counts in pair)
        parts.append(f'{heading}<div class="panels">{drawn}</div>')
    about = "Rows: what is true. Columns: what was answered. Shade: share of the row; red is wrong."
    return section("Confusion matrix", about, "".join(parts)) if parts else ""


SECTIONS: tuple[Callable[[Report], str], ...] = (
    _tiles, _notes, _budgets, _before_and_after, _latency, ratios, _confusion, branches, curves, parity, steps, files, environment,
)  # fmt: skip
