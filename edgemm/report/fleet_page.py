"""The page of a fleet: boards side by side, what could not be measured and why, and a page for each board beside it."""

from __future__ import annotations

from html import escape
from pathlib import Path

from edgemm.contracts.fleet import BoardResult, FleetReport
from edgemm.contracts.report import Measurement, Verdict
from edgemm.report import page
from edgemm.report.formatting import in_unit, name_of, shown
from edgemm.report.sections import section, table
from edgemm.store.artifact import write_bytes

BOARDS = "boards"
"""Folder with a report for each board."""


def write(report: FleetReport, folder: Path) -> None:
    """``report.json`` and ``report.html`` of the fleet, and both of each board in ``boards/NAME``.

    Raises:
        OutputError: They cannot be written there.
    """
    for board in report.answered:
        assert board.report is not None  # it answered
        page.write(board.report, folder / BOARDS / board.name)
    report.save(folder / "report.json")
    write_bytes(folder / "report.html", render(report).encode())


def render(report: FleetReport) -> str:
    """The fleet as one HTML file, with links to the boards' own pages."""
    name = Path(report.bundle).name
    words = f"{len(report.answered)} of {len(report.boards)} boards measured it." + (" A budget is missed." if report.missed else "")
    body = "".join(part for part in (_side_by_side(report), _gaps(report), _budgets(report)) if part)
    return page.document(f"{name} on {len(report.boards)} boards", f'<p class="lead">{escape(words)}</p>', body)


def _side_by_side(report: FleetReport) -> str:
    rows = [[escape(fact.capitalize()), *map(escape, cells)] for fact, cells in report.facts()]
    rows += [[escape(name_of(name, output)), *map(_cell, cells)] for name, output, cells in report.rows()]
    own = [f'<a href="{BOARDS}/{escape(board.name)}/report.html">its report</a>' if board.report else "none" for board in report.boards]
    head = ["", *(f"#{board.name}" for board in report.boards)]
    about = "Each board measured the bundle itself; the compressed form is shown."
    return section("Side by side", about, table(head, [*rows, ["More", *own]], stack=False))


def _gaps(report: FleetReport) -> str:
    rows = [[escape(board.name), escape(what), escape(why)] for board in report.boards for what, why in board.gaps().items()]
    return section("What could not be measured, and why", "", table(["Board", "What", "Why"], rows)) if rows else ""


def _budgets(report: FleetReport) -> str:
    rows = [_verdict(board, verdict) for board in report.answered if board.report for verdict in board.report.budgets]
    return section("Budgets", "", table(["Board", "Budget", "Verdict"], rows)) if rows else ""


def _verdict(board: BoardResult, verdict: Verdict) -> list[str]:
    mood = {"met": "good", "missed": "bad"}.get(verdict.verdict, "doubt")
    return [escape(board.name), escape(str(verdict)), f'<span class="badge {mood}">{escape(verdict.verdict)}</span>']


def _cell(m: Measurement | None) -> str:
    if m is None:
        return "–"
    interval = "" if m.low is None or m.high is None else f"<small>{in_unit(m, m.low)} … {in_unit(m, m.high)}</small>"
    return f"{escape(shown(m))}{interval}"
