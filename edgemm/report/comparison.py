"""Two reports of the same model on the same machine, before and after a change: what got worse beyond the noise of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from edgemm.contracts.report import Measurement, Report
from edgemm.contracts.task import guarded_metrics
from edgemm.errors import MeasureError
from edgemm.report.formatting import in_unit, name_of

TIMES = ("latency_p50_ms", "latency_p90_ms", "latency_p95_ms", "latency_p99_ms", "cpu_ms", "cold_start_ms", "paced_p50_ms", "paced_p95_ms")
OTHERS = ("peak_rss_mib", "unique_mib", "throughput_per_s", "energy_mj")
TOLERANCE = 0.05  # runs at different times differ by so much without any change: other pages in memory, another temperature
SIZE_TOLERANCE = 0.01
WIDER = 2.576 / 1.96  # of 95% half widths: among a hundred rows five would seem to differ at 95%
SAME_MACHINE = ("device", "architecture", "cores")
VERDICTS = {"worse": "✕ worse", "failed": "✕ failed", "better": "✓ better", "same": "same", "gone": "gone", "added": "added"}
Key = tuple[Any, ...]


@dataclass(frozen=True)
class MeasuredChange:
    """One measurement in both reports; ``verdict`` is worse, failed (its form ran in the old one only), better, same, gone or added."""

    name: str
    label: str
    old: Measurement | None
    new: Measurement | None
    verdict: str

    @property
    def ratio(self) -> float | None:
        """New over old."""
        return self.new.value / self.old.value if self.old and self.new and self.old.value else None


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` found. ``missed`` holds the regressions: they make the command end with 3."""

    changes: Sequence[MeasuredChange]
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def missed(self) -> list[MeasuredChange]:
        return [change for change in self.changes if change.verdict in ("worse", "failed")]

    def to_dict(self) -> dict[str, Any]:
        rows = [
            {"name": c.name, "label": c.label, "verdict": c.verdict, "ratio": c.ratio, **{
                side: None if m is None else asdict(m) for side, m in (("old", c.old), ("new", c.new))
            }}
            for c in self.changes
        ]  # fmt: skip
        return {"format": 1, "regressions": len(self.missed), "changes": rows, "notes": list(self.notes)}

    def rows(self) -> Iterator[list[str]]:
        """Cells for a table: what, of which form, old, new, ratio, verdict; the worst first."""
        order = {verdict: rank for rank, verdict in enumerate(("worse", "failed", "better", "same", "gone", "added"))}
        for change in sorted(self.changes, key=lambda change: order[change.verdict]):
            ratio = f"{change.ratio:.2f}x" if change.ratio is not None else ""
            what = name_of(change.name, change.old.output if change.old else change.new.output if change.new else None)
            yield [what, change.label, _cell(change.old), _cell(change.new), ratio, VERDICTS[change.verdict]]

    def __str__(self) -> str:
        table = [["", "form", "old", "new", "ratio", "verdict"], *self.rows()]
        widths = [max(len(row[column]) for row in table) for column in range(6)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
        conclusion = f"{len(self.missed)} regressions beyond the interval" if self.missed else "no regression beyond the interval"
        return "\n".join([*lines, "", *self.notes, conclusion])


def compare(old: Report, new: Report) -> Comparison:
    """Hold ``new`` against ``old``.

    A figure is worse where it moved the wrong way by more than both intervals explain (99%) and, for speed and memory, by more than 5%.
    What the old report measured and the new one tried to and could not has failed: that is a regression too.

    Raises:
        MeasureError: They come from different machines, or have nothing in common.
    """
    for fact in SAME_MACHINE:
        ours, theirs = old.environment.get(fact), new.environment.get(fact)
        if ours != theirs:
            raise MeasureError(
                "these reports cannot be compared: they were measured on different machines.",
                why=f"{fact.replace('_', ' ')}: {ours} in the old one, {theirs} in the new one.",
                fix="measure both on one machine.",
            )
    before, after = _keyed(old.measurements), _keyed(new.measurements)
    if not before.keys() & after.keys():
        raise MeasureError(
            "these reports have no measurement in common.",
            why=f"the old one is about {_about(old)}, the new one about {_about(new)}.",
            fix="compare reports of the same model on the same target.",
        )
    changes = [_change(before.get(key), after.get(key)) for key in [*before, *(key for key in after if key not in before)]]
    failed = {(form.target, form.subject) for form in new.details.not_measured}
    changes = [replace(c, verdict="failed") if c.verdict == "gone" and _form(c.old) in failed else c for c in changes]
    return Comparison(changes, tuple(_notes(old, new)))


def _keyed(measurements: Sequence[Measurement]) -> dict[Key, Measurement]:
    """By what they are about; the candidate's own name counts only where it is needed to tell two apart (paths differ between runs)."""

    def short(m: Measurement) -> Key:
        return (m.name, m.subject, m.target, m.output, m.branch, m.modalities)

    counts: dict[Key, int] = {}
    for m in measurements:
        counts[short(m)] = counts.get(short(m), 0) + 1
    return {(*short(m), m.candidate if counts[short(m)] > 1 else ""): m for m in measurements}


def _form(m: Measurement | None) -> tuple[str | None, str] | None:
    return (m.target, m.subject) if m else None


def _change(old: Measurement | None, new: Measurement | None) -> MeasuredChange:
    measurement = old or new
    assert measurement is not None
    words = [measurement.target or "", measurement.subject, measurement.branch or "", "+".join(measurement.modalities or ())]
    label = " ".join(word for word in words if word)
    if old is None or new is None:
        return MeasuredChange(measurement.name, label, old, new, "gone" if new is None else "added")
    return MeasuredChange(measurement.name, label, old, new, _verdict(old, new))


def _verdict(old: Measurement, new: Measurement) -> str:
    lower = new.better == "lower"
    worse = (new.value - old.value) if lower else (old.value - new.value)
    if new.name == "accuracy_drop_points" or new.name in guarded_metrics():
        least = 0.0
    elif new.name in (*TIMES, *OTHERS):
        least = TOLERANCE * abs(old.value)
    elif new.name == "size_mib":
        least = SIZE_TOLERANCE * abs(old.value)
    else:
        return "same"  # shown, not judged: the slowest call, jitter
    noise = WIDER * (_half(old) ** 2 + _half(new) ** 2) ** 0.5
    if abs(worse) <= max(least, noise):
        return "same"
    return "worse" if worse > 0 else "better"


def _half(m: Measurement) -> float:
    return max(m.value - m.low, m.high - m.value) if m.low is not None and m.high is not None else 0.0


def _notes(old: Report, new: Report) -> Iterator[str]:
    ours: Mapping[str, Any] = old.environment.get("versions") or {}
    theirs: Mapping[str, Any] = new.environment.get("versions") or {}
    for name in sorted({*ours, *theirs}):
        if ours.get(name) != theirs.get(name):
            yield f"{name} was {ours.get(name, 'absent')} and is {theirs.get(name, 'absent')}."
    for word, report in (("old", old), ("new", new)):
        flagged = [name for name, disturbance in report.details.disturbances.items() if disturbance.flagged]
        if flagged:
            yield f"the {word} run was disturbed ({', '.join(flagged)}): measure it again before you believe a change of speed."


def _about(report: Report) -> str:
    return ", ".join(dict.fromkeys(f"{m.target} {m.subject}" for m in report.measurements)) or "nothing"


def _cell(m: Measurement | None) -> str:
    if m is None:
        return ""
    unit = "%" if m.unit == "ratio" else m.unit
    spread = "" if m.low is None or m.high is None else f" [{in_unit(m, m.low)}, {in_unit(m, m.high)}]"
    return f"{in_unit(m, m.value)} {unit}{spread}".strip()
