"""Branches that run only where they can change the answer: what each gate skips on val, and what that costs at most."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from edgemm.contracts.gate import EXACT, GateFound
from edgemm.contracts.report import Report
from edgemm.contracts.timing_parts import Gated
from edgemm.report.formatting import number
from edgemm.report.sections import section, table


def gates(report: Report) -> str:
    """A row for each gate, and one for each head and label that it was held for."""
    rows = report.details.gates
    about = (
        "Where the answer without a branch is sure enough, the branch does not run. The threshold is the lowest that is shown on val to "
        "lose no more than allowed, with 95 % confidence, of all data like val and of the next rows by themselves (thresholds are tried "
        "in an order fixed before). On the box a share of the skipped calls runs all the same, and the gate opens where they disagree too "
        "often."
    )
    head = ["Branch", "After", "Target", "#Skipped on val", "From", "#Branch, ms", "#Judging, ms", "#Verdict"]
    body = f"{table(head, [_row(row) for row in rows])}<details><summary>What each head loses</summary>{_losses(rows)}</details>"
    return (section("Gates", about, body) if rows else "") + _gated(report.details.gated)


def _gated(rows: Sequence[Gated]) -> str:
    """What gates save: a row for each way that a decision goes."""
    cells = []
    for row in rows:
        empty = "" if row.empty is None else f", {row.empty:.0%} of the moments empty"
        for word, hump in row.humps.items():
            times = ["" if ms is None else f"{ms:.3g}" for ms in (hump.p50_ms, hump.p95_ms)]
            share = "" if word not in ("skipped", "passed") else f"{hump.share:.1%}"
            figures = [*times, f"{hump.mean_ms:.3g}", f"{hump.cpu_ms:.3g}"] if hump.p50_ms is not None else [""] * 4
            cells.append([escape(word), escape(f"{row.candidate}, {row.where}{empty}"), share, *figures])
    about = (
        "A decision through gates takes one of two times: that of the answer without the branch, where it is skipped, or that of both "
        "answers. Shares are those of decisions; processor time counts all threads."
    )
    head = ["Decisions", "Of", "#Share", "#p50, ms", "#p95, ms", "#Mean, ms", "#Processor, ms"]
    return section("Through the gates", about, table(head, cells)) if rows else ""


def _row(row: GateFound) -> list[str]:
    at = "" if row.threshold is None else f"{escape(row.criterion)} {row.threshold:.6g}"
    word = '<span class="badge good">✓ within</span>' if row.threshold is not None else '<span class="badge doubt">runs always</span>'
    taken = ["" if ms is None else f"{ms:.3g}" for ms in (row.branch_ms, row.rest_ms)]
    return [escape(row.run), escape(", ".join(row.after)), escape(row.target), f"{row.skipped:.1%}", at, *taken, word]


def _losses(rows: Sequence[GateFound]) -> str:
    cells = []
    for row in rows:
        for lost in row.lost:
            bound = number(lost.bound) + ("" if row.bound == EXACT else " (approximate)")
            name = lost.output if lost.label is None else f"{lost.output}: {lost.label}"
            cells.append(
                [escape(row.run), escape(name), escape(row.target), number(lost.points), bound, number(row.loss_points), str(lost.rows)]
            )
    return table(["Branch", "Head", "Target", "#Lost, points", "#At most", "#Allowed", "#Rows"], cells)
