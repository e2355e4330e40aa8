"""What a report holds beside measurements and budgets: each part with a name and a shape, optional all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from edgemm.contracts.target import LayerRan

Row = Mapping[str, Any]
R = TypeVar("R")


@dataclass(frozen=True)
class Ratio:
    """Two forms timed side by side: how many times as long ``candidate`` takes as ``baseline``, with its 95% interval.

    Attributes:
        verdict: ``faster``, ``slower``, ``no difference shown``.
        disturbed: Whether one of the two was disturbed in too many rounds.
    """

    candidate: str
    baseline: str
    value: float
    low: float | None = None
    high: float | None = None
    verdict: str = ""
    disturbed: bool = False


@dataclass(frozen=True)
class FormName:
    """Which form of what: the user's name for it, the target, the subject."""

    source: str = ""
    target: str | None = None
    subject: str = ""


@dataclass(frozen=True)
class Disturbance(FormName):
    """How far what else the box did spoiled a form's rounds.

    Attributes:
        rounds: That count.
        disturbed: Of these, those that were so each time they were tried.
        repeated: Turns done again.
        reasons: Reason -> how many turns it spoiled.
        flagged: Whether the form's figures are not to be trusted.
    """

    rounds: int = 0
    disturbed: int = 0
    repeated: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    flagged: bool = False


@dataclass(frozen=True)
class StageRan:
    """One stage of a run; ``reused`` = taken from the cache."""

    name: str
    seconds: float = 0.0
    text: str = ""
    reused: bool = False


@dataclass(frozen=True)
class Confusion:
    """Counts of an output's answers, a row for each true label; ``before`` is the original's, where it is known."""

    labels: Sequence[str]
    after: Sequence[Sequence[int]] = ()
    before: Sequence[Sequence[int]] | None = None


@dataclass(frozen=True)
class Throughput:
    """Samples a second of a form with so many samples a call and parallel streams; ``error`` says why there is no figure."""

    candidate: str
    batch: int
    streams: int
    per_s: float | None = None
    low: float | None = None
    high: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Details:
    """The parts of a report beside its measurements and budgets; what a run did not look at is empty.

    Attributes:
        title, card, recipe: Names.
        notes: What a reader must know; ``warnings``, among them, what disturbances mean for the reader.
        failures: Candidates of which nothing could be measured; ``not_measured``: forms that failed.
        energy: What the meter covers, or why there is none.
        steps: The stages of the run, in order.
        applied: ``{step, options, facts}``: the torch steps of the recipe and what each found out.
        branches: ``{branch, precision, parameters, macs, latency_share, size_mib, sqnr_db}``; every field but ``branch`` optional,
            ``parameters`` and ``macs`` a number or ``{"before": x, "after": y}``, ``latency_share`` 0 to 1; ``size_mib`` ``{"before": x,
            "after": y}``, or one entry a precision (``fp32``, ``fp16``, ``int8``).
        latency_samples_ms: A variant's label, or any other words -> milliseconds, in the order to draw them.
        ratios: Who was timed against whom.
        disturbances: Form -> how far it was disturbed; ``timeline``: every turn, as ``disturbed.timeline`` makes them.
        pace: ``{rates_hz, how}``; ``throughput``: a row a combination.
        roofline, audit: Rows of ``measuring.roofline``; ``peaks``: ``devices.peaks.Peaks.to_dict()``.
        layers: Of the bundle.
        confusion: Output -> its matrices.
        curves: ``<chart>/<line>`` such as ``loss/train``, ``loss/val`` -> ``[[epoch, value], ...]``.
        parity: ``graph.parity.Rung.to_dict()`` of each rung.
        precision: ``{target, branch, ms: {precision: {value, low, high}}, choice, reason}``, where a recipe says ``precision: auto``.
        runtime_options: ``{target, taken, options, p50_ms, ...}``: what was timed to choose them.
        guard: ``{target, step, outputs: {output: {value, low, high, unit, limit, missed}}, size_mib, decision}``, what was tried to keep
            accuracy, in order; all but ``step`` and ``decision`` optional.
        sensitivity: ``sensitivity.Sensitivity.to_dict()``.
        estimate: ``estimate.Estimate.to_dict()``: what a board would take.
        ledger: ``{inputs, rows, of, where, contributions: [{input, output, target, unit, before, after, change, deaf}]}``; its measurements
            have ``modalities`` set.
        files: Name in the bundle -> bytes.
        box: What another machine went through: ``{memory, thermals, verified}``; ``remote``: ``{connection_losses}``.
    """

    title: str = ""
    card: str = ""
    recipe: str = ""
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()
    failures: Sequence[str] = ()
    not_measured: Sequence[FormName] = ()
    energy: str = ""
    steps: Sequence[StageRan] = ()
    applied: Sequence[Row] = ()
    branches: Sequence[Row] = ()
    latency_samples_ms: Mapping[str, Sequence[float]] = field(default_factory=dict)
    ratios: Sequence[Ratio] = ()
    disturbances: Mapping[str, Disturbance] = field(default_factory=dict)
    timeline: Sequence[Row] = ()
    pace: Row = field(default_factory=dict)
    throughput: Sequence[Throughput] = ()
    roofline: Sequence[Row] = ()
    audit: Sequence[Row] = ()
    peaks: Row = field(default_factory=dict)
    layers: Sequence[LayerRan] = ()
    confusion: Mapping[str, Confusion] = field(default_factory=dict)
    curves: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    parity: Sequence[Row] = ()
    precision: Sequence[Row] = ()
    runtime_options: Sequence[Row] = ()
    guard: Sequence[Row] = ()
    sensitivity: Row = field(default_factory=dict)
    estimate: Row = field(default_factory=dict)
    ledger: Row = field(default_factory=dict)
    files: Mapping[str, int] = field(default_factory=dict)
    box: Row = field(default_factory=dict)
    remote: Row = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``report.json``; empty parts are left out."""
        plain = {part.name: getattr(self, part.name) for part in fields(self) if getattr(self, part.name)}
        for name in plain.keys() & ROWS.keys():
            plain[name] = [asdict(row) for row in plain[name]]
        for name in plain.keys() & NAMED.keys():
            plain[name] = {key: asdict(row) for key, row in plain[name].items()}
        return plain

    @classmethod
    def of_dict(cls, plain: Mapping[str, Any]) -> Details:
        """Back from ``to_dict``, and from what older versions wrote; parts that this version does not know are left out."""
        parts = {part.name: plain[part.name] for part in fields(cls) if plain.get(part.name)}
        for name in parts.keys() & ROWS.keys():
            parts[name] = tuple(_row(ROWS[name], row) for row in parts[name])
        for name in parts.keys() & NAMED.keys():
            parts[name] = {key: _row(NAMED[name], row) for key, row in parts[name].items()}
        return cls(**parts)


ROWS: Mapping[str, type] = {
    "not_measured": FormName, "steps": StageRan, "ratios": Ratio, "throughput": Throughput, "layers": LayerRan,
}  # fmt: skip
"""Parts that are rows of a shape."""
NAMED: Mapping[str, type] = {"disturbances": Disturbance, "confusion": Confusion}
"""Parts that are rows of a shape by name."""


def _row(kind: type[R], plain: Mapping[str, Any]) -> R:
    names = {part.name for part in fields(kind)}  # type: ignore[arg-type]  # all of them are dataclasses
    return kind(**{key: value for key, value in plain.items() if key in names})
