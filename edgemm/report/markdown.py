"""A report or a comparison as Markdown, for a pull request or a README."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from edgemm.contracts.fleet import FleetReport
from edgemm.contracts.report import Measurement, Report
from edgemm.contracts.timing_parts import BranchLimit, Throughput, WastefulLayer
from edgemm.report.comparison import Comparison
from edgemm.report.fleet_comparison import FleetComparison
from edgemm.report.formatting import in_unit, name_of

COLUMNS = (
    "latency_p50_ms", "latency_p95_ms", "latency_max_ms", "jitter_ms", "paced_p50_ms", "paced_p95_ms", "cpu_ms", "cold_start_ms",
    "size_mib", "peak_rss_mib", "unique_mib", "energy_mj", "throughput_per_s",
)  # fmt: skip


def render(found: Report | Comparison | FleetReport | FleetComparison) -> str:
    """The whole of it; tables that would be empty are left out."""
    match found:
        case Comparison():
            parts = _comparison(found)
        case FleetReport():
            parts = _fleet(found)
        case FleetComparison():
            parts = _fleets(found)
        case _:
            parts = _report(found)
    return "\n\n".join(part for part in parts if part) + "\n"


def _fleet(report: FleetReport) -> Iterable[str]:
    yield f"# {Path(report.bundle).name} on {len(report.boards)} boards"
    rows = [[fact.capitalize(), *cells] for fact, cells in report.facts()]
    rows += [[name_of(name, output), *map(_cell, cells)] for name, output, cells in report.rows()]
    yield table(["", *(board.name for board in report.boards)], rows)
    yield _listed(line for board in report.boards for line in board.gap_lines())
    yield _listed(f"{board.name}: {verdict}" for board in report.answered if board.report for verdict in board.report.budgets)


def _fleets(comparison: FleetComparison) -> Iterable[str]:
    yield _listed([*(f"{name} was lost: {why}" for name, why in comparison.lost.items()), *comparison.notes])
    for name, found in comparison.boards.items():
        yield f"# {name}\n\n" + "\n\n".join(part for part in list(_comparison(found))[1:] if part)


def _comparison(comparison: Comparison) -> Iterable[str]:
    yield "# Comparison"
    yield table(["", "Form", "Old", "New", "Ratio", "Verdict"], list(comparison.rows()))
    yield _listed(comparison.notes)
    yield f"**{len(comparison.missed)} regressions beyond the interval**" if comparison.missed else "No regression beyond the interval."


def _report(report: Report) -> Iterable[str]:
    details = report.details
    yield f"# {details.title or 'edgemm benchmark'}"
    facts = report.environment
    yield f"{facts.get('device')}, {facts.get('cores')} cores, {facts.get('memory_gib')} GiB; {facts.get('system')}. Intervals are 95 %."
    yield _listed(details.notes)
    variants = report.variants()
    scores = dict.fromkeys((m.name, m.output) for m in report.measurements if m.output and m.branch is None and m.modalities is None)
    columns = [(name, None) for name in COLUMNS if any(variant.get(name) for variant in variants)] + list(scores)
    rows = [
        [v.label + " (disturbed)" * report.is_disturbed(v), v.precision, *(_cell(v.get(*column)) for column in columns)] for v in variants
    ]
    yield table(["", "Ran in", *(name_of(*column) for column in columns)], rows)
    pairs = [
        [r.candidate, r.baseline, f"{1 / r.value:.2f}x", f"{r.verdict}{' (disturbed)' if r.disturbed else ''}"] for r in details.ratios
    ]
    yield "## Side by side\n\n" + table(["Candidate", "Against", "Speed", "Verdict"], pairs) if pairs else ""
    yield "## Throughput\n\n" + _throughput(details.throughput) if details.throughput else ""
    yield "## Roofline\n\n" + _roofline(details.roofline) if details.roofline else ""
    yield "## Kernel audit\n\n" + _audit(details.audit) if details.audit else ""
    yield "## Budgets\n\n" + _listed(map(str, report.budgets)) if report.budgets else ""


def _throughput(rows: Sequence[Throughput]) -> str:
    cells = [[r.candidate, str(r.batch), str(r.streams), f"{r.per_s:.0f}" if r.per_s else r.error or ""] for r in rows]
    return table(["Candidate", "Batch", "Streams", "Samples a second"], cells)


def _roofline(rows: Sequence[BranchLimit]) -> str:
    cells = [[r.branch, f"{r.time_us:.0f} µs", f"{100 * r.of_limit:.0f} %", r.reason] for r in rows]
    return table(["Branch", "Time", "Of its limit", "Limited by"], cells)


def _audit(rows: Sequence[WastefulLayer]) -> str:
    cells = [
        [r.finding, f"`{r.layer.partition(',')[0]}`", r.kind, r.kernel, "" if r.share is None else f"{100 * r.share:.1f} %"] for r in rows
    ]
    return table(["Finding", "Layer", "Kind", "Kernel", "Time"], cells)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; bars within cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines)


def _listed(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _cell(m: Measurement | None) -> str:
    if m is None:
        return ""
    spread = "" if m.low is None or m.high is None else f" ({in_unit(m, m.low)} to {in_unit(m, m.high)})"
    return f"{in_unit(m, m.value)}{' %' if m.unit == 'ratio' else f' {m.unit}' if m.unit else ''}{spread}"
