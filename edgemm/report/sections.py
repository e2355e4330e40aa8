"""The sections of the report page that show ``Report.details``: branches, curves, parity, what was done, files, the machine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from edgemm.contracts.report import Report
from edgemm.contracts.report_parts import BranchSummary
from edgemm.contracts.rung import Difference, Rung
from edgemm.contracts.target import LayerRan
from edgemm.report import charts
from edgemm.store.artifact import show_size

LAYERS_SHOWN = 25
PRECISIONS = ("before", "after", "fp32", "fp16", "int8")
VALUE_WORDS = {"instructions": "Instruction sets", "memory_gib": "Memory, GiB"}


def section(title: str, about: str, body: str) -> str:
    """One card of the page; ``about`` is text, ``body`` HTML."""
    intro = f'<p class="about">{escape(about)}</p>' if about else ""
    return f"<section><h2>{escape(title)}</h2>{intro}{body}</section>\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, stack: bool = True) -> str:
    """A table without its empty columns. Where the page is too narrow its rows become blocks (``stack``), or it scrolls by itself.

    Args:
        head: Column titles as text; a leading ``#`` means numbers, aligned right.
        rows: Cells as HTML.
    """
    kept = [column for column in range(len(head)) if column == 0 or any(row[column] for row in rows)]
    head, rows = [head[column] for column in kept], [[row[column] for column in kept] for row in rows]
    kinds = [' class="number"' if title.startswith("#") else "" for title in head]
    names = [escape(title.removeprefix("#"), quote=True) for title in head]
    titles = "".join(f"<th scope=col{kind}>{name}</th>" for name, kind in zip(names, kinds, strict=True))
    body = []
    for first, *cells in rows:
        inner = "".join(f'<td{kind} data-name="{name}">{cell}</td>' for name, kind, cell in zip(names[1:], kinds[1:], cells, strict=True))
        body.append(f"<tr><th scope=row>{first}</th>{inner}</tr>")
    name = "data stack" if stack else "data"
    return f'<div class="wide"><table class="{name}"><thead><tr>{titles}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def branches(report: Report) -> str:
    """A row for each branch and front-end: what it holds, what it costs, what it runs in."""
    about = (
        "The parts of the model, found in its graph; a front-end is what is computed of an input before the model sees it, and its MiB are "
        "constants. Time: share of all layers' time, as the runtime told it layer by layer."
    )
    rows = report.details.branches
    return section("Branches", about, branch_table(rows)) if rows else ""


def branch_table(rows: Sequence[BranchSummary]) -> str:
    """These branches and front-ends, one under the other."""
    sizes = [key for key in PRECISIONS if any(key in row.size_mib for row in rows)]
    head = ["Branch", "Precision", "#Parameters", "#MACs", "Time", *(f"#MiB {key}" for key in sizes), "#SQNR, dB"]
    return table(head, [_branch(row, sizes) for row in rows])


def _branch(row: BranchSummary, sizes: Sequence[str]) -> list[str]:
    share, sqnr = row.latency_share, row.sqnr_db
    bar = (
        f'<div class="share"><span><i style="width:{100 * share:.1f}%"></i></span><b>{100 * share:.1f} %</b></div>'
        if share is not None
        else ""
    )
    held = [f"{row.size_mib[key]:.3g}" if key in row.size_mib else "" for key in sizes]
    counts = [_counts(row.parameters), _counts(row.macs)]
    noise = "" if sqnr is None else "exact" if sqnr == math.inf else f"{sqnr:.1f}"
    return [escape(row.branch), escape(row.precision), *counts, bar, *held, noise]


def _counts(value: float | Mapping[str, float] | None) -> str:
    """A count, or one before and after with an arrow where they differ."""
    if value is None:
        return ""
    if not isinstance(value, Mapping):
        return _count(value)
    before, after = value["before"], value["after"]
    return _count(after) if before == after else f"{_count(before)} &rarr; {_count(after)}"


def _count(value: float) -> str:
    for size, word in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {word}"
    return f"{value:.3g}"


def curves(report: Report) -> str:
    """One chart for each ``<chart>/...`` of the curves, a line for each ``.../<line>``."""
    grouped: dict[str, dict[str, Any]] = {}
    for name, points in report.details.curves.items():
        chart, _, line = str(name).rpartition("/")
        grouped.setdefault(chart or line, {})[line] = points
    drawn = [(chart, charts.lines(series, x_label="epoch")) for chart, series in grouped.items()]
    panels = "".join(f"<div><h3>{escape(chart)}</h3>{lines}</div>" for chart, lines in drawn if lines)
    return section("Training", "", f'<div class="panels">{panels}</div>') if panels else ""


def parity(report: Report) -> str:
    """The ladder from the original to the target, rung by rung."""
    ladder = report.details.parity
    rungs = "".join(_rung(rung) for rung in ladder)
    about = "Each form of the model against the one before it, on real samples. SQNR: the error's distance below the signal."
    return section("Parity ladder", about, f'<ol class="ladder">{rungs}</ol>') if ladder else ""


def _rung(rung: Rung) -> str:
    badge = f'<span class="badge {"good" if rung.ok else "bad"}">{"✓ holds" if rung.ok else "✕ breaks"}</span>'
    parts = [f"<b>{escape(rung.name)}</b> {badge} <small>{escape(f'{rung.reference} → {rung.candidate}')}</small>"]
    for kind, differences in (("outputs", rung.outputs), ("branches", rung.branches)):
        words = [f"{escape(name)} {_difference(gap)}" for name, gap in differences.items()]
        parts += [f"<p>{kind}: {' · '.join(words)}</p>"] if words else []
    if rung.culprit:
        branch, node = escape(rung.culprit.branch), escape(rung.culprit.node)
        parts.append(f"<p>first differs in branch <b>{branch}</b>, node <code>{node}</code></p>")
    parts += [f"<p>{escape(rung.note)}</p>"] if rung.note else []
    return f'<li class="{"good" if rung.ok else "bad"}">{"".join(parts)}</li>'


def _difference(gap: Difference) -> str:
    if gap.max_abs == 0:
        return "exact"
    noise = f"{gap.sqnr_db:.0f} dB" if math.isfinite(gap.sqnr_db) else "not finite"
    return f"{noise}{f' (at most {gap.max_abs:.2g} off)' if math.isfinite(gap.max_abs) else ''}"


def ratios(report: Report) -> str:
    """Candidates against each other, timed side by side."""
    rows = []
    for ratio in report.details.ratios:
        low, high = ratio.low, ratio.high
        interval = "" if low is None or high is None else f"<small>{1 / high:.2f}× … {1 / low:.2f}×</small>"
        verdict, disturbed = str(ratio.verdict or ""), bool(ratio.disturbed)
        mood = "doubt" if disturbed else {"faster": "good", "slower": "bad"}.get(verdict, "doubt")
        badge = f'<span class="badge {mood}">{escape(verdict)}{" (disturbed)" * disturbed}</span>'
        rows.append([escape(str(ratio.candidate)), escape(str(ratio.baseline)), f"{1 / ratio.value:.2f}×{interval}", badge])
    about = "How many times as fast, by the medians of interleaved rounds; the interval is of the pair, not of each alone."
    return section("Side by side", about, table(["Candidate", "Against", "#Speed", "#Verdict"], rows)) if rows else ""


def steps(report: Report) -> str:
    """What was done, with seconds."""
    stages = report.details.steps
    if not stages:
        return ""
    total = sum(float(step.seconds or 0) for step in stages)
    longest = max((float(step.seconds or 0) for step in stages), default=0.0) or 1.0
    rows = []
    for step in stages:
        seconds = float(step.seconds or 0)
        bar = f'<div class="share"><span><i style="width:{100 * seconds / longest:.1f}%"></i></span><b>{seconds:.1f} s</b></div>'
        spent = '<span class="badge">reused</span>' if step.reused else bar
        rows.append([escape(str(step.name)), escape(str(step.text or "")), spent])
    return section("What was done", f"{len(rows)} stages, {total:.0f} seconds.", table(["Stage", "What", "Time"], rows))


def files(report: Report) -> str:
    """Files of the bundle by size, and the slowest layers."""
    parts = []
    sizes: Mapping[str, int] = report.details.files
    if sizes:
        rows = [[f"<code>{escape(name)}</code>", show_size(size)] for name, size in sorted(sizes.items(), key=lambda item: -item[1])]
        parts.append(f"<details><summary>{len(rows)} files</summary>{table(['File', '#Size'], rows)}</details>")
    layers = [layer for layer in report.details.layers if layer.time_us]
    if layers:
        slowest = sorted(layers, key=lambda layer: -(layer.time_us or 0.0))[:LAYERS_SHOWN]
        rows = [_layer(layer) for layer in slowest]
        drawn = table(["Layer", "Kind", "Ran in", "Kernel", "#Time"], rows)
        parts.append(f"<details><summary>The {len(rows)} slowest of {len(layers)} layers</summary>{drawn}</details>")
    return section("Inside the bundle", "", "".join(parts)) if parts else ""


def _layer(layer: LayerRan) -> list[str]:
    words = [escape(str(word or "")) for word in (layer.kind, layer.precision, layer.kernel)]
    return [f"<code>{escape(_first(str(layer.name)))}</code>", *words, f"{layer.time_us or 0.0:.0f} µs"]


def _first(names: str) -> str:
    """Of a fused layer's long list of names the first, and how many more."""
    first, _, rest = names.partition(",")
    return f"{first} +{rest.count(',') + 1}" if rest else first


def environment(report: Report) -> str:
    """The machine and the versions: without them a number means nothing."""
    facts = []
    for key, value in report.environment.items():
        if value in (None, "", [], {}):
            continue
        word = VALUE_WORDS.get(key, key.replace("_", " ").capitalize())
        if isinstance(value, Mapping):
            value = ", ".join(f"{name} {entry}" for name, entry in value.items())
        elif isinstance(value, (list, tuple)):
            value = ", ".join(map(str, value))
        facts.append(f"<dt>{escape(word)}</dt><dd>{escape(str(value))}</dd>")
    return section("Measured where", "", f'<dl class="facts">{"".join(facts)}</dl>') if facts else ""


def by_output(parts: Mapping[str, str]) -> str:
    """HTML of each output, under its name where there are several."""
    if len(parts) < 2:
        return "".join(parts.values())
    return "".join(f'<div class="step"><h3>{escape(name)}</h3>{part}</div>' for name, part in parts.items())
