"""Measurements and the report they make: plain values on disk, format 1."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from edgemm.contracts import plain_values
from edgemm.contracts.interval import show_interval
from edgemm.contracts.report_parts import Details
from edgemm.contracts.timing_parts import Ratio
from edgemm.errors import EdgemmError
from edgemm.store import json_text
from edgemm.store.artifact import write_bytes

FORMAT = 1
ROUNDING = 1e-9  # three of a thousand rows are 0.30000000000000004 points, and no more than 0.3
SUBJECTS = ("original", "float", "default", "bundle")


@dataclass(frozen=True)
class Measurement:
    """One number with its unit, its interval and what it is about.

    Attributes:
        name: accuracy, f1, mae, recall_at_1, latency_p50_ms, latency_p90_ms, latency_p95_ms, latency_p99_ms, peak_rss_mib, size_mib,
            cold_start_ms, load_ms, macs, parameters, accuracy_drop_points ...
        subject: original (torch fp32), float (same target, forced f32), default (same target, its own default), bundle.
        candidate: What was measured, as the user knows it (a path or name).
        low, high: 95% interval, where one is known.
        n: Number of samples behind ``value``.
        per_point: What a budget's bare number counts in ``unit``, as ``metrics.Score`` has it; None = one.
    """

    name: str
    value: float
    unit: str
    better: str = "lower"
    subject: str = "bundle"
    candidate: str = ""
    target: str | None = None
    output: str | None = None
    branch: str | None = None
    modalities: tuple[str, ...] | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    precision_asked: str | None = None
    precision_ran: str | None = None
    per_point: float | None = None

    def limit_of(self, given: Any) -> float:
        """A budget for this in its own unit: a mapping's entry for the output as it is, a bare number times ``per_point``."""
        if isinstance(given, Mapping):
            return float(given[self.output])
        return float(given) if self.per_point in (None, 1.0) else float(f"{given * self.per_point:.3g}")  # as it is printed


@dataclass(frozen=True)
class Verdict:
    """A budget and whether it holds.

    Attributes:
        limit: In ``unit``, in which ``value`` is.
        unit: The output's; "points" also where a bare number could not be converted since nobody measured; None where the name says it.
        uncertain: The interval reaches to both sides of the limit.
    """

    name: str
    limit: float
    value: float | None
    verdict: str
    target: str | None = None
    output: str | None = None
    low: float | None = None
    high: float | None = None
    uncertain: bool = False
    unit: str | None = None

    def __str__(self) -> str:
        where = " ".join(word for word in (self.output, f"on {self.target}" if self.target else "") if word)
        value = "nobody measured it" if self.value is None else f"{self.value:.3g} {show_interval(self.low, self.high)}".strip()
        doubt = ", but the interval reaches across the limit" if self.uncertain else ""
        unit = f" {self.unit}" if self.unit and self.unit != "points" and self.value is not None else ""
        return f"budget {self.name} {where}: {self.verdict}: {value}{unit}, limit {self.limit:g}{unit}{doubt}".replace("  ", " ")


@dataclass(frozen=True)
class Variant:
    """One measured form of the model: what ran, where. ``label`` tells it from the report's other variants in a few words."""

    label: str
    subject: str
    candidate: str
    target: str | None
    measurements: tuple[Measurement, ...]

    def get(self, name: str, output: str | None = None) -> Measurement | None:
        """Its measurement called ``name``."""
        return next((m for m in self.measurements if m.name == name and m.output == output), None)

    @property
    def precision(self) -> str:
        """What really ran, or what was asked for where nobody looked."""
        ran = [m.precision_ran or m.precision_asked for m in self.measurements if m.precision_ran or m.precision_asked]
        return str(ran[0]) if ran else ""


@dataclass(frozen=True)
class Report:
    """Everything one run found out.

    Attributes:
        environment: The machine and the versions.
        details: What is neither a measurement nor a budget.
    """

    environment: Mapping[str, Any]
    measurements: Sequence[Measurement] = ()
    budgets: Sequence[Verdict] = ()
    details: Details = field(default_factory=Details)

    @property
    def missed(self) -> list[Verdict]:
        return [verdict for verdict in self.budgets if verdict.verdict == "missed"]

    def find(self, name: str, **where: Any) -> list[Measurement]:
        """Measurements called ``name`` whose fields equal ``where``."""
        return [m for m in self.measurements if m.name == name and all(getattr(m, key) == value for key, value in where.items())]

    def variants(self) -> list[Variant]:
        """What was measured, grouped: originals first, then for each target float, default, bundle."""
        groups: dict[tuple[str | None, str, str], list[Measurement]] = {}
        for m in self.measurements:
            if m.branch is None and m.modalities is None:
                groups.setdefault((m.target if m.subject != "original" else None, m.subject, m.candidate), []).append(m)
        targets = list(dict.fromkeys(target for target, _, _ in groups))
        order = {subject: rank for rank, subject in enumerate(SUBJECTS)}
        keys = sorted(groups, key=lambda key: (key[1] != "original", targets.index(key[0]), order.get(key[1], len(order))))
        return [Variant(_label(key, keys), key[1], key[2], key[0], tuple(groups[key])) for key in keys]

    def __str__(self) -> str:
        """The measurements as a table, what was timed against what, warnings of the timing, what a reader must know, the budgets."""
        rows = [_row(variant, self._metrics(), flag=" (disturbed)" * self.is_disturbed(variant)) for variant in self.variants()]
        head = [
            "",
            "p50 ms",
            "p95 ms",
            "paced p50 ms",
            "size MiB",
            "RSS MiB",
            *(f"{name} {output or ''}".strip() for name, output in self._metrics()),
            "ran in",
        ]
        kept = [column for column in range(len(head)) if column == 0 or any(row[column] for row in rows)]
        table = [[row[column] for column in kept] for row in [head, *rows]] if rows else []
        widths = [max(len(row[column]) for row in table) for column in range(len(kept))] if table else []
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
        warnings = self.details.warnings
        blocks = [
            lines,
            [_pair(row) for row in self.details.ratios],
            map(str, self.details.gated),
            warnings,
            [f"note: {note}" for note in self.details.notes if note not in warnings],
            map(str, self.budgets),
        ]
        return "\n\n".join("\n".join(block) for block in map(list, blocks) if block)

    def is_disturbed(self, variant: Variant) -> bool:
        """Whether what else the box did spoiled too many rounds of this variant."""
        form = (variant.candidate, variant.target, variant.subject)
        return any(row.flagged and (row.source, row.target, row.subject) == form for row in self.details.disturbances.values())

    def _metrics(self) -> list[tuple[str, str | None]]:
        return list(dict.fromkeys((m.name, m.output) for m in self.measurements if m.output is not None and m.branch is None))

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "environment": dict(self.environment),
            "measurements": [asdict(m) for m in self.measurements],
            "budgets": [asdict(b) for b in self.budgets],
            "details": self.details.to_dict(),
        }

    def to_json(self) -> bytes:
        """The bytes of ``report.json``. What is not finite becomes null: JSON has no word for it."""
        return (json.dumps(plain_values.plain(self.to_dict()), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()

    def save(self, path: Path) -> None:
        write_bytes(path, self.to_json())


def _label(key: tuple[str | None, str, str], keys: Sequence[tuple[str | None, str, str]]) -> str:
    target, subject, candidate = key
    words = {"original": "original", "float": f"{target}, float", "default": f"{target}, its default", "bundle": f"{target}, compressed"}
    label = words.get(subject, f"{target}, {subject}")
    return f"{label} ({candidate})" if sum(other[:2] == key[:2] for other in keys) > 1 else label


def _row(variant: Variant, metrics: Sequence[tuple[str, str | None]], *, flag: str) -> list[str]:
    cells = [variant.label + flag]
    columns = ("latency_p50_ms", "latency_p95_ms", "paced_p50_ms", "size_mib", "peak_rss_mib")
    for name, output in [*((column, None) for column in columns), *metrics]:
        m = variant.get(name, output)
        cells.append(f"{m.value:.4g} {show_interval(m.low, m.high)}".strip() if m else "")
    return [*cells, variant.precision]


def _pair(row: Ratio) -> str:
    """One comparison in words: how many times as fast, with its interval, and what may be claimed of it."""
    interval = show_interval(1 / row.high, 1 / row.low) if row.low and row.high else ""
    doubt = " (disturbed)" if row.disturbed else ""
    return f"{row.candidate} against {row.baseline}: {1 / row.value:.2f}x {interval} {row.verdict}{doubt}".replace("  ", " ")


def read(path: Path) -> Report:
    """Read a report.

    Raises:
        EdgemmError: Not a report, or of a newer format.
    """
    try:
        plain = json_text.loads(path.read_text(encoding="utf-8"))
        if plain.get("format") != FORMAT:
            raise EdgemmError(
                f"{path} is a report of format {plain.get('format')!r}.",
                why=f"this edgemm reads format {FORMAT}.",
                fix="measure again with this edgemm, or read it with the one that wrote it.",
            )
        return of_dict(plain)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise EdgemmError(
            f"{path} is not an edgemm report.", why=str(err), fix="give the report.json that benchmark or compress wrote."
        ) from err


def of_dict(plain: Mapping[str, Any]) -> Report:
    """Back from ``to_dict``.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: It is something else.
    """
    return Report(
        plain["environment"],
        [plain_values.read(Measurement, m) for m in plain["measurements"]],
        [Verdict(**b) for b in plain["budgets"]],
        Details.of_dict(plain.get("details", {})),
    )


def judge(budgets: Mapping[str, Any], measurements: Iterable[Measurement], targets: Iterable[str], outputs: Iterable[str]) -> list[Verdict]:
    """Hold the bundle's measurements against the budgets, one verdict for every budget, target and (where it applies) output.

    A budget nobody measured is ``unknown``. Of ``accuracy_drop_points`` a bare number means points for every output; for a regression a
    point is a hundredth of the spread of its labels (see ``Measurement.limit_of``), and a number for one output is in its own unit.
    """
    measured = [m for m in measurements if m.subject == "bundle"]
    outputs = list(outputs)
    verdicts = []
    for target in targets:
        for name, limit in budgets.items():
            per_output = name == "accuracy_drop_points"
            limits = limit if isinstance(limit, Mapping) else dict.fromkeys(outputs if per_output else [None], limit)
            for output, bound in limits.items():
                matches = [m for m in measured if m.name == name and m.target == target and m.output == output]
                unit = (matches[0].unit if matches else "" if isinstance(limit, Mapping) else "points") if per_output else None
                held = matches[0].limit_of(limit) if matches else float(bound)
                verdicts.append(replace(_verdict(name, held, matches[0] if matches else None, target, output), unit=unit))
    return verdicts


def _verdict(name: str, limit: float, measured: Measurement | None, target: str, output: str | None) -> Verdict:
    if measured is None:
        return Verdict(name, limit, None, "unknown", target, output)
    low, high = measured.low, measured.high
    uncertain = low is not None and high is not None and low <= limit < high
    word = "met" if measured.value <= limit + ROUNDING else "missed"
    return Verdict(name, limit, measured.value, word, target, output, low, high, uncertain)
