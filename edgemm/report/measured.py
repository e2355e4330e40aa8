"""Sections of the report page about how it was measured: accuracy against latency, disturbances, throughput, the box's limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from edgemm.contracts.report import Measurement, Report, Variant
from edgemm.contracts.task import guarded_metrics
from edgemm.contracts.timing_parts import Peaks, TimedTurn, WastefulLayer
from edgemm.report.charts import nice_ticks
from edgemm.report.formatting import name_of
from edgemm.report.sections import section, table

COLOURS = {subject: f"var(--{subject})" for subject in ("original", "float", "default", "bundle")}
AUDITED = 12  # layers shown at once; the rest is in report.json
MARK = 1.1  # per cent of the width: the least a turn takes in the timeline


def measured(report: Report) -> str:
    """All of them that the report has something for."""
    return "".join(draw(report) for draw in (_pareto, _throughput, _limits, _timeline))


def _pareto(report: Report) -> str:
    """For each output with a score: its value against the median latency of every variant; the best trade-offs joined by a line."""
    parts, metrics = [], guarded_metrics()
    for name, output in dict.fromkeys((m.name, m.output) for m in report.measurements if m.name in metrics and m.output):
        pairs = [(v, v.get("latency_p50_ms"), v.get(name, output)) for v in report.variants()]
        points = [(v, x, y) for v, x, y in pairs if x and y and math.isfinite(x.value) and math.isfinite(y.value)]
        if len(points) > 1:
            parts.append(f"<div><h3>{escape(name_of(name, output))}</h3>{_scatter(points)}</div>")
    about = "Each variant by its median latency and its score, with 95 % intervals. The line joins those that no other one beats in both."
    return section("Accuracy against latency", about, f'<div class="panels">{"".join(parts)}</div>') if parts else ""


def _scatter(points: Sequence[tuple[Variant, Measurement, Measurement]]) -> str:
    xs = nice_ticks(0.0, max(x.high or x.value for _, x, _ in points))
    edges = [edge for _, _, y in points for edge in (y.value, y.low, y.high) if edge is not None]
    ys = nice_ticks(min(edges), max(edges))

    def left(value: float) -> float:
        return 100 * min(1.0, (value - xs[0]) / ((xs[-1] - xs[0]) or 1))

    def top(value: float) -> float:
        return 100 - 100 * (value - ys[0]) / ((ys[-1] - ys[0]) or 1)

    grid = "".join(f'<line class="grid" x1="0" x2="100" y1="{top(tick):.2f}" y2="{top(tick):.2f}"/>' for tick in ys)
    line = " ".join(f"{left(x.value):.2f},{top(y.value):.2f}" for _, x, y in front(points))
    drawn, keys = [], []
    for variant, x, y in points:
        colour = COLOURS.get(variant.subject, "var(--c3)")
        across = f"{left(x.low or x.value):.2f} {left(x.high or x.value):.2f}".split()
        along = f"{top(y.low if y.low is not None else y.value):.2f} {top(y.high if y.high is not None else y.value):.2f}".split()
        style = f'style="stroke:{colour};stroke-width:1.5" vector-effect="non-scaling-stroke"'
        drawn.append(f'<line {style} x1="{across[0]}" x2="{across[1]}" y1="{top(y.value):.2f}" y2="{top(y.value):.2f}"/>')
        drawn.append(f'<line {style} x1="{left(x.value):.2f}" x2="{left(x.value):.2f}" y1="{along[0]}" y2="{along[1]}"/>')
        point = f"{left(x.value):.2f},{top(y.value):.2f}"
        dot = f"stroke:{colour};stroke-width:11;stroke-linecap:round;fill:none"
        drawn.append(f'<polyline style="{dot}" vector-effect="non-scaling-stroke" points="{point} {point}"/>')
        keys.append(f'<span class="key k-{escape(variant.subject, quote=True)}"><i class="swatch"></i>{escape(variant.label)}</span>')
    scale = "".join(f'<span style="top:{top(tick):.2f}%">{tick:g}</span>' for tick in ys)
    spoken = escape("; ".join(f"{v.label}: {x.value:.3g} ms, {y.value:.3g}" for v, x, y in points), quote=True)
    return (
        f'<div class="lines"><div class="plot"><div class="scale">{scale}</div>'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="{spoken}">{grid}'
        f'<polyline style="fill:none;stroke:var(--soft);stroke-dasharray:4 4" vector-effect="non-scaling-stroke" points="{line}"/>'
        f"{''.join(drawn)}</svg></div>"
        f'<div class="ends"><span>{xs[0]:g}</span><span>median latency, ms</span><span>{xs[-1]:g}</span></div>'
        f'<div class="legend">{"".join(keys)}</div></div>'
    )


def front(points: Sequence[tuple[Variant, Measurement, Measurement]]) -> list[tuple[Variant, Measurement, Measurement]]:
    """The points that no other one beats in both: fastest first, each next one slower and better."""
    kept: list[tuple[Variant, Measurement, Measurement]] = []
    for point in sorted(points, key=lambda point: (point[1].value, -_goodness(point[2]))):
        if not kept or _goodness(point[2]) > _goodness(kept[-1][2]):
            kept.append(point)
    return kept


def _goodness(m: Measurement) -> float:
    return m.value if m.better == "higher" else -m.value


def _throughput(report: Report) -> str:
    rows = report.details.throughput
    cells = []
    for row in rows:
        interval = "" if row.low is None or row.high is None else f"<small>{row.low:.0f} … {row.high:.0f}</small>"
        shown = escape(row.error or "") if row.per_s is None else f"{row.per_s:.0f}{interval}"
        cells.append([escape(row.candidate), str(row.batch), str(row.streams), shown])
    about = "Samples a second with so many samples a call and so many parallel streams; each stream has its share of the cores."
    return section("Throughput", about, table(["Candidate", "#Batch", "#Streams", "#Samples a second"], cells)) if cells else ""


def _limits(report: Report) -> str:
    rows = report.details.roofline
    if not rows:
        return ""
    cells = [[escape(row.branch), f"{row.time_us:.0f} µs", _share(row.of_limit), escape(row.reason), str(row.layers)] for row in rows]
    parts = [table(["Branch", "#Time", "Of its limit", "Limited by", "#Layers"], cells), _audit(report.details.audit)]
    return section("Against the limits of this box", _peaks(report.details.peaks), "".join(parts))


def _peaks(box: Peaks | None) -> str:
    rates = [f"{kind} {rate:.0f}" for kind, rate in box.gops.items() if rate] if box else []
    peaks = f"On {box.threads} thread(s) this box shows {', '.join(rates)} GOP/s and copies {box.bandwidth_gbs:.1f} GB/s. " if box else ""
    return peaks + "Limit: the time the arithmetic or the weights' way from memory alone would take."


def _share(share: float) -> str:
    return f'<div class="share"><span><i style="width:{100 * share:.1f}%"></i></span><b>{100 * share:.0f} %</b></div>'


def _audit(rows: Sequence[WastefulLayer]) -> str:
    if not rows:
        return ""
    cells = []
    for row in rows[:AUDITED]:
        cost = "" if row.time_us is None else f"{row.time_us:.0f} µs<small>{100 * (row.share or 0):.1f} %</small>"
        name = escape(row.layer.partition(",")[0])
        cells.append([f"<code>{name}</code>", escape(row.finding), escape(row.kind), escape(row.kernel), cost])
    more = f", the costliest {AUDITED} of {len(rows)}" if len(rows) > AUDITED else ""
    drawn = table(["Layer", "What is wrong", "Kind", "Kernel", "#Cost"], cells)
    return f"<details><summary>Kernel audit: layers that waste time{more}</summary>{drawn}</details>"


def _timeline(report: Report) -> str:
    turns = report.details.timeline
    if not turns:
        return ""
    end = max(turn.at_s for turn in turns) or 1.0
    names = dict.fromkeys(turn.candidate for turn in turns)
    strips = "".join(_strip(name, [turn for turn in turns if turn.candidate == name], end) for name in names)
    energy = report.details.energy
    about = (
        "Each candidate's turns in the order they were taken. Green: undisturbed; red: disturbed each time it was tried, and counted; "
        "pale: disturbed and done again, not counted."
    )
    footnote = f"<p><small>{escape(str(energy))}</small></p>" if energy else ""
    axis = f'<div class="ends"><span>0 s</span><span>{end:.0f} s</span></div>'
    return section("Disturbances while measuring", about, f'<div class="bars">{strips}{axis}</div>{_reasons(report)}{footnote}')


def _strip(name: str, turns: Sequence[TimedTurn], end: float) -> str:
    marks = []
    for turn in turns:
        colour = "var(--bad-soft)" if not turn.kept else "var(--bad)" if turn.reasons else "var(--good)"
        title = escape(f"round {turn.round + 1}: {turn.p50_ms:.3g} ms; {'; '.join(turn.reasons) or 'undisturbed'}", quote=True)
        width = max(MARK, 100 * turn.seconds / end)
        left = min(100 - width, max(0.0, 100 * (turn.at_s - turn.seconds) / end))
        marks.append(
            f'<i title="{title}" style="position:absolute;top:0;height:100%;left:{left:.2f}%;width:{width:.2f}%;background:{colour}"></i>'
        )
    spoiled = sum(bool(turn.reasons) for turn in turns if turn.kept)
    count = sum(turn.kept for turn in turns)
    return (
        f'<div class="row"><span class="name">{escape(name)}</span><span class="track">{"".join(marks)}</span>'
        f'<span class="value">{spoiled} of {count} disturbed</span></div>'
    )


def _reasons(report: Report) -> str:
    rows = [
        [escape(name), escape(reason), str(count)]
        for name, disturbance in report.details.disturbances.items()
        for reason, count in disturbance.reasons.items()
    ]
    if not rows:
        return ""
    drawn = table(["Candidate", "Reason", "#Turns"], rows)
    return f"<details><summary>Reasons</summary>{drawn}</details>"
