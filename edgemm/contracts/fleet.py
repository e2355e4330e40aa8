"""What several boards showed of one bundle: plain values on disk, beside those of a single report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemm.contracts import plain_values
from edgemm.contracts.interval import show_interval
from edgemm.contracts.report import Measurement, Report, Variant, Verdict, of_dict
from edgemm.contracts.task import guarded_metrics
from edgemm.errors import EdgemmError
from edgemm.store import json_text
from edgemm.store.artifact import write_bytes

KIND, FORMAT = "fleet", 1
SHOWN = ("latency_p50_ms", "latency_p95_ms", "cold_start_ms", "peak_rss_mib", "energy_mj", "size_mib", "throughput_per_s")
"""What stands side by side, beside the outputs' own metrics."""
WANTED = {"latency_p50_ms": "latency", "accuracy": "accuracy", "peak_rss_mib": "memory", "energy_mj": "energy"}
"""What each board should have told, and how it is called where it did not."""
ALL = "all of it"
OF_ACCURACY = "accuracy was not measured"


@dataclass(frozen=True)
class Problem:
    """Why nothing came of a board: an error's words."""

    what: str
    why: str = ""
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.what} {self.why}".strip()


@dataclass(frozen=True)
class BoardResult:
    """One board.

    Attributes:
        name: As the fleet's file calls it.
        url: Where it is: ``local`` or ``ssh://user@host``.
        report: None where nothing could be measured; then ``problem`` says why.
        seconds: That it took.
    """

    name: str
    url: str
    report: Report | None = None
    problem: Problem | None = None
    seconds: float = 0.0

    @property
    def shown(self) -> Variant | None:
        """The form that the board is judged by: the compressed one, else the first."""
        variants = self.report.variants() if self.report else []
        return next((variant for variant in variants if variant.subject == "bundle"), variants[0] if variants else None)

    def gaps(self) -> dict[str, str]:
        """What could not be measured there, and why."""
        if self.report is None:
            return {ALL: str(self.problem)}
        details, form = self.report.details, self.shown
        lost = {f"{one.target} {one.subject}": _about(f"{one.target} {one.subject}", details.notes) for one in details.not_measured}
        names = {m.name for m in form.measurements} if form else set()
        scored = names & set(guarded_metrics())
        missing = [word for name, word in WANTED.items() if name not in names and not (name == "accuracy" and scored)]
        reasons = {
            "energy": details.energy.removeprefix("energy is unknown: "),
            "accuracy": next((note for note in details.notes if OF_ACCURACY in note), "the bundle has no output with a metric."),
        }
        left_out = {
            f"target {_target(note)}": note.rpartition(": not measured on ")[2].partition(": ")[2] for note in _left_out(details.notes)
        }
        return {**left_out, **lost, **{word: reasons.get(word) or "the board's report does not say." for word in missing}}

    def gap_lines(self) -> list[str]:
        """The same in a sentence each."""
        return [f"{self.name}: {'nothing' if what == ALL else f'no {what}'} was measured: {why}" for what, why in self.gaps().items()]


@dataclass(frozen=True)
class FleetReport:
    """One bundle on several boards.

    Attributes:
        bundle: As the user named it.
    """

    bundle: str
    boards: Sequence[BoardResult]

    @property
    def answered(self) -> list[BoardResult]:
        return [board for board in self.boards if board.report is not None]

    @property
    def missed(self) -> list[Verdict]:
        """The budgets that some board misses."""
        return [verdict for board in self.answered if board.report for verdict in board.report.missed]

    def rows(self) -> Iterator[tuple[str, str | None, list[Measurement | None]]]:
        """Name and output of what was measured, and what each board showed of it: a column a board, as they stand in ``boards``."""
        forms = [board.shown for board in self.boards]
        metrics = dict.fromkeys((m.name, m.output) for form in forms if form for m in form.measurements if m.output)
        for name, output in [*((name, None) for name in SHOWN), *metrics]:
            cells = [form.get(name, output) if form else None for form in forms]
            if any(cells):
                yield name, output, cells

    def facts(self) -> Iterator[tuple[str, list[str]]]:
        """What each board is, and what ran there."""
        environments = [board.report.environment if board.report else {} for board in self.boards]
        forms = [board.shown for board in self.boards]
        yield "device", [str(facts.get("device", "")) for facts in environments]
        yield "target", [(form.target or "") if form else "" for form in forms]
        yield "ran in", [form.precision if form else "" for form in forms]

    def __str__(self) -> str:
        """Boards side by side, what could not be measured and why, the budgets."""
        head = ["", *(board.name for board in self.boards)]
        table = [head, *([name, *cells] for name, cells in self.facts())]
        table += [[f"{name} {output or ''}".strip(), *map(_cell, cells)] for name, output, cells in self.rows()]
        widths = [max(len(row[column]) for row in table) for column in range(len(head))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
        gaps = [line for board in self.boards for line in board.gap_lines()]
        warnings = [f"{board.name}: {text}" for board in self.answered if board.report for text in board.report.details.warnings]
        budgets = [f"{board.name}: {verdict}" for board in self.answered if board.report for verdict in board.report.budgets]
        return "\n\n".join("\n".join(block) for block in (lines, gaps, warnings, budgets) if block)

    def to_dict(self) -> dict[str, Any]:
        boards = [
            {"name": board.name, "url": board.url, "seconds": board.seconds, "problem": plain_values.plain(board.problem),
             "report": board.report.to_dict() if board.report else None}
            for board in self.boards
        ]  # fmt: skip
        return {"format": FORMAT, "kind": KIND, "bundle": self.bundle, "boards": boards}

    def save(self, path: Path) -> None:
        text = json.dumps(plain_values.plain(self.to_dict()), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        write_bytes(path, text.encode())


def is_fleet(path: Path) -> bool:
    """Whether a file is the report of a fleet; False too where it cannot be read."""
    try:
        return bool(json_text.loads(path.read_text(encoding="utf-8")).get("kind") == KIND)
    except (OSError, ValueError, AttributeError):
        return False


def read(path: Path) -> FleetReport:
    """Read the report of a fleet.

    Raises:
        EdgemmError: It is none, or of a newer format.
    """
    try:
        plain = json_text.loads(path.read_text(encoding="utf-8"))
        if plain["kind"] != KIND or plain["format"] != FORMAT:
            raise ValueError(f"it is of kind {plain['kind']!r} and format {plain['format']!r}")
        return FleetReport(plain["bundle"], [_board(entry) for entry in plain["boards"]])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise EdgemmError(
            f"{path} is not the report of a fleet.", why=str(err), fix="give the report.json that benchmark --fleet wrote."
        ) from err


def _board(plain: Mapping[str, Any]) -> BoardResult:
    report = of_dict(plain["report"]) if plain["report"] else None
    problem = plain_values.read(Problem, plain["problem"]) if plain["problem"] else None
    return BoardResult(plain["name"], plain["url"], report, problem, float(plain["seconds"]))


def _about(form: str, notes: Sequence[str]) -> str:
    return next((note.partition(": ")[2] for note in notes if form in note and "was not measured" in note), "see its report.")


def _left_out(notes: Sequence[str]) -> list[str]:
    """Targets of the bundle that cannot run there."""
    return [note for note in notes if ": not measured on " in note]


def _target(note: str) -> str:
    """Of a note of ``_left_out``."""
    return note.rpartition(": not measured on ")[2].partition(":")[0]


def _cell(m: Measurement | None) -> str:
    return f"{m.value:.4g} {show_interval(m.low, m.high)}".strip() if m else "-"
