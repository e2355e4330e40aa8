"""Charts as HTML with inline SVG: no script. Text is HTML, so that it stays readable at every width; SVG holds shapes only.

Every function escapes the words it is given and returns a fragment for ``_report.page``, whose style sheet (``report.css``) colours it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from edgemm.report.formatting import number

BINS = 120  # of a latency histogram: finer than a phone's pixels are of no use
LOG_RANGE = 15  # beyond that the fastest would be a line at the edge of an axis from zero
SHOWN_PERCENTILE = 99.0  # the axis of a latency chart ends a little beyond it, so that one hiccup does not flatten the rest
NUMBERED_CELLS = 12  # a confusion matrix with more labels shows colours alone
LONG_LABEL = 5  # letters; longer labels stand upright above their column
LISTED = 12
DRAWN_LABELS = 60  # with more labels than that only the commonest confusions are listed


@dataclass(frozen=True)
class Bar:
    """One row of a bar or dot chart; ``kind`` names its colour (a subject of the report)."""

    label: str
    value: float
    shown: str
    note: str = ""
    kind: str = "bundle"
    low: float | None = None
    high: float | None = None


def bars(rows: Sequence[Bar]) -> str:
    """Horizontal bars from zero, with whiskers where an interval is known."""
    finite = [row for row in rows if math.isfinite(row.value)]
    top = max([row.high or row.value for row in finite if math.isfinite(row.high or row.value)], default=0.0) or 1.0
    return f'<div class="bars">{"".join(_bar(row, 0.0, top, "bar") for row in rows)}</div>'


def dots(rows: Sequence[Bar], *, percent: bool) -> str:
    """Dots with whiskers on an axis that shows only the range needed; its ends are written below."""
    ends = [end for row in rows for end in (row.value, row.low, row.high) if end is not None and math.isfinite(end)]
    if not ends:
        return ""
    low, high = min(ends), max(ends)
    room = (high - low) * 0.15 or abs(high) * 0.02 or 1.0
    low, high = low - room, high + room
    if percent:
        low, high = max(0.0, low), min(1.0, high) if max(ends) <= 1 else high
    words = [f"{100 * end:.1f} %" if percent else f"{end:.3g}" for end in (low, high)]
    axis = f'<div class="ends"><span>{words[0]}</span><span>{words[1]}</span></div>'
    return f'<div class="bars">{"".join(_bar(row, low, high, "dot") for row in rows)}{axis}</div>'


def _bar(row: Bar, low: float, high: float, shape: str) -> str:
    def place(value: float) -> float:
        return 100 * min(1.0, max(0.0, (value - low) / ((high - low) or 1.0)))

    drawn = ""
    if math.isfinite(row.value):
        drawn = f'<i class="{shape}" style="{"width" if shape == "bar" else "left"}:{place(row.value):.2f}%"></i>'
        if row.low is not None and row.high is not None and math.isfinite(row.low) and math.isfinite(row.high):
            drawn += f'<i class="whisker" style="left:{place(row.low):.2f}%;width:{place(row.high) - place(row.low):.2f}%"></i>'
    note = f" <small>{escape(row.note)}</small>" if row.note else ""
    return (
        f'<div class="row k-{escape(row.kind, quote=True)}"><span class="name">{escape(row.label)}{note}</span>'
        f'<span class="track">{drawn}</span><span class="value">{escape(row.shown)}</span></div>'
    )


def ridges(samples: Mapping[str, Sequence[float]], kinds: Mapping[str, str]) -> str:
    """Latency distributions, one above the other on one axis, each with its median and 95th percentile marked.

    The axis starts at zero; where the slowest takes more than ``LOG_RANGE`` times as long as the fastest, it counts in powers of ten.
    """
    arrays = {label: np.asarray([v for v in values if v > 0 and math.isfinite(v)], float) for label, values in samples.items()}
    arrays = {label: values for label, values in arrays.items() if values.size}
    if not arrays:
        return ""
    slowest = max(float(np.percentile(values, SHOWN_PERCENTILE)) for values in arrays.values())
    fastest = min(float(np.percentile(values, 100 - SHOWN_PERCENTILE)) for values in arrays.values())
    axis = _Axis(decade_ticks(fastest, slowest), True) if slowest > LOG_RANGE * fastest else _Axis(nice_ticks(0.0, 1.08 * slowest), False)
    rows = [_ridge(label, values, axis, kinds.get(label, "bundle")) for label, values in arrays.items()]
    marks = "".join(f'<span style="left:{100 * axis.place(tick):.2f}%">{tick:g}</span>' for tick in axis.ticks)
    unit = "milliseconds a call" + (", powers of ten" if axis.log else "")
    return f'<div class="ridges">{"".join(rows)}<div class="axis">{marks}</div><div class="unit">{unit}</div></div>'


@dataclass(frozen=True)
class _Axis:
    ticks: Sequence[float]
    log: bool

    def place(self, value: float) -> float:
        """Where ``value`` lies: 0 at the first tick, 1 at the last."""
        low, high = self.ticks[0], self.ticks[-1]
        return math.log(value / low) / math.log(high / low) if self.log else (value - low) / (high - low)


def _ridge(label: str, values: np.ndarray, axis: _Axis, kind: str) -> str:
    counts, _ = np.histogram([axis.place(value) for value in values], bins=BINS, range=(0.0, 1.0))
    smooth = np.convolve(counts, [0.25, 0.5, 0.25], mode="same")
    heights = 38 * smooth / (smooth.max() or 1.0)
    points = " ".join(f"{(bin_index + 0.5) / BINS * 100:.2f},{40 - height:.1f}" for bin_index, height in enumerate(heights))
    median, late = (float(np.percentile(values, part)) for part in (50, 95))
    places = [("p50", 100 * axis.place(median)), ("p95", 100 * axis.place(late))]
    ticks = "".join(f'<line class="{name}" x1="{x:.2f}" x2="{x:.2f}" y1="0" y2="40"/>' for name, x in places)
    beyond = int((values > axis.ticks[-1]).sum())
    summary = f"p50 {number(median)} ms · p95 {number(late)} ms · {values.size} calls" + (f", {beyond} beyond the axis" if beyond else "")
    return (
        f'<div class="ridge k-{escape(kind, quote=True)}"><div class="name">{escape(label)} <small>{summary}</small></div>'
        f'<svg viewBox="0 0 100 40" preserveAspectRatio="none" role="img" aria-label="{escape(label, quote=True)}: latency distribution">'
        f'<polygon points="0,40 {points} 100,40"/>{ticks}</svg></div>'
    )


def lines(
    series: Mapping[str, Sequence[Sequence[float]]], *, x_label: str, shares: bool = False, told: Mapping[str, str] | None = None
) -> str:
    """A line chart.

    Args:
        series: Name -> points (x, y); points that are not finite are left out.
        shares: Both axes go from 0 to 1, whatever the points.
        told: Name -> what its legend says; without it the last value.
    """
    drawn = {name: [(float(x), float(y)) for x, y in points if math.isfinite(y)] for name, points in series.items()}
    drawn = {name: points for name, points in drawn.items() if points}
    if not drawn:
        return ""
    xs, ys = zip(*(point for points in drawn.values() for point in points), strict=True)
    left, right = (0, 1) if shares else (min(xs), max(xs))
    ticks = nice_ticks(0.0, 1.0) if shares else nice_ticks(min(ys), max(ys))
    bottom, top = ticks[0], ticks[-1]

    def place(x: float, y: float) -> str:
        return f"{100 * (x - left) / ((right - left) or 1):.2f},{100 - 100 * (y - bottom) / ((top - bottom) or 1):.2f}"

    grid = "".join(f'<line class="grid" x1="0" x2="100" y1="{y:.2f}" y2="{y:.2f}"/>' for y in _heights(ticks))
    paths = "".join(
        f'<polyline class="c{n % 6}" points="{" ".join(place(*p) for p in points)}"/>' for n, points in enumerate(drawn.values())
    )
    ends = "".join(  # a line of no length with round ends is a dot that keeps its shape when the picture is stretched
        f'<polyline class="c{n % 6} end" points="{place(*points[-1])} {place(*points[-1])}"/>' for n, points in enumerate(drawn.values())
    )
    scale = "".join(f'<span style="top:{y:.2f}%">{tick:g}</span>' for y, tick in zip(_heights(ticks), ticks, strict=True))
    words = {name: f"{points[-1][1]:.3g}" for name, points in drawn.items()} | dict(told or {})
    legend = "".join(
        f'<span class="key c{n % 6}"><i></i>{escape(name)} <b>{escape(words[name])}</b></span>' for n, name in enumerate(drawn)
    )
    spoken = escape(", ".join(drawn), quote=True)
    return (
        f'<div class="lines"><div class="plot"><div class="scale">{scale}</div>'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="{spoken}">{grid}{paths}{ends}</svg></div>'
        f'<div class="ends"><span>{left:g}</span><span>{escape(x_label)}</span><span>{right:g}</span></div>'
        f'<div class="legend">{legend}</div></div>'
    )


@dataclass(frozen=True)
class Dot:
    """One point of a scatter chart; ``words`` are shown where a pointer rests on it."""

    x: float
    y: float
    words: str
    stands_out: bool = False


def scatter(dots: Sequence[Dot], *, x_label: str, limit: float | None = None) -> str:
    """A scatter chart; points that are not finite are left out.

    Args:
        limit: Of x, drawn as a line where it lies within the points.
    """
    dots = [dot for dot in dots if math.isfinite(dot.x) and math.isfinite(dot.y)]
    if len(dots) < 2:
        return ""
    across, up = (nice_ticks(min(values), max(values)) for values in ([dot.x for dot in dots], [dot.y for dot in dots]))

    def place(value: float, ticks: Sequence[float]) -> float:
        return 100 * (value - ticks[0]) / ((ticks[-1] - ticks[0]) or 1)

    grid = "".join(f'<line class="grid" x1="0" x2="100" y1="{y:.2f}" y2="{y:.2f}"/>' for y in _heights(up))
    if limit is not None and across[0] <= limit <= across[-1]:
        grid += f'<line class="limit" x1="{place(limit, across):.2f}" x2="{place(limit, across):.2f}" y1="0" y2="100"/>'
    drawn = ""
    for dot in sorted(dots, key=lambda dot: dot.stands_out):
        spot = f"{place(dot.x, across):.2f},{100 - place(dot.y, up):.2f}"
        drawn += (
            f'<polyline class="{"c0" if dot.stands_out else "c5"} end" points="{spot} {spot}"><title>{escape(dot.words)}</title></polyline>'
        )
    scale = "".join(f'<span style="top:{y:.2f}%">{tick:g}</span>' for y, tick in zip(_heights(up), up, strict=True))
    spoken = escape(x_label, quote=True)
    return (
        f'<div class="lines"><div class="plot"><div class="scale">{scale}</div>'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="{spoken}">{grid}{drawn}</svg></div>'
        f'<div class="ends"><span>{across[0]:g}</span><span>{escape(x_label)}</span><span>{across[-1]:g}</span></div></div>'
    )


def _heights(ticks: Sequence[float]) -> list[float]:
    span = (ticks[-1] - ticks[0]) or 1
    return [100 - 100 * (tick - ticks[0]) / span for tick in ticks]


def matrix(labels: Sequence[str], counts: Sequence[Sequence[float]], caption: str) -> str:
    """A confusion matrix: a row for each true label, a column for each answer; shade = share of its row."""
    table = np.asarray(counts, float)
    if len(labels) > DRAWN_LABELS:
        return _commonest(labels, table, caption)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    right = f"{100 * np.trace(table) / max(table.sum(), 1):.1f} % right"
    numbered = len(labels) <= NUMBERED_CELLS
    head = "".join(f"<th scope=col><span>{escape(str(label))}</span></th>" for label in labels)
    rows = []
    for row, label in enumerate(labels):
        cells = []
        for column in range(len(labels)):
            share, count = shares[row, column], table[row, column]
            name = ("hit" if row == column else "miss") + (" deep" if share > 0.55 else "")
            title = (
                f' title="{escape(f"{label} answered as {labels[column]}: {count:g} ({100 * share:.1f} %)", quote=True)}"' if count else ""
            )
            text = f"{count:g}" if numbered and count else ""
            shade = f' style="--share:{share:.3f}"' if count else ""
            cells.append(f'<td class="{name}"{title}{shade}><span>{text}</span></td>')
        rows.append(f"<tr><th scope=row>{escape(str(label))}</th>{''.join(cells)}</tr>")
    size = (" long" if max(len(str(label)) for label in labels) > LONG_LABEL else "") if numbered else " small"
    return (
        f'<figure class="matrix{size}"><figcaption>{escape(caption)} <small>{right}</small></figcaption><div class="wide"><table>'
        f"<thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></figure>"
    )


def _commonest(labels: Sequence[str], table: np.ndarray, caption: str) -> str:
    """For many labels: the wrong answers given most often."""
    wrong = table - np.diag(np.diag(table))
    order = np.argsort(-wrong, axis=None, kind="stable")[:LISTED]
    pairs = [divmod(int(cell), len(labels)) for cell in order if wrong.flat[cell] > 0]
    mistakes = [
        f"{escape(str(labels[true]))} answered as {escape(str(labels[answered]))}: <b>{table[true, answered]:g}</b>"
        for true, answered in pairs
    ]
    right = f"{100 * np.trace(table) / max(table.sum(), 1):.1f} % right, {len(labels)} labels; most frequent mistakes"
    listed = "".join(f"<li>{words}</li>" for words in mistakes)
    head = f"{escape(caption)} <small>{right}</small>"
    return f'<figure class="matrix"><figcaption>{head}</figcaption><ol class="mistakes">{listed}</ol></figure>'


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers that reach from at or below ``low`` to at or above ``high``."""
    span = (high - low) or abs(high) or 1.0
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(multiple * step, 12) for multiple in range(first, max(last, first + 1) + 1)]


def decade_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten that reach from at or below ``low`` to at or above ``high``, thinned where they are many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = [float(f"{digit}e{power}") for power in range(first, last + 1) for digit in (1, 2, 5)]
    start = max(index for index, tick in enumerate(every) if tick <= low * 1.0001)
    end = min(index for index, tick in enumerate(every) if tick >= high * 0.9999)
    kept = every[start : end + 1]
    return (
        kept
        if len(kept) <= 8
        else [kept[0], *(tick for tick in kept[1:-1] if f"{tick:e}"[0] == "1" and kept[-1] > 2.1 * tick > 4.4 * kept[0]), kept[-1]]
    )
