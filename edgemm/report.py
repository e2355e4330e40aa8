"""Measurements and the report they make: plain values on disk, format 1."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgemm.artifact import write_bytes
from edgemm.errors import EdgemmError

FORMAT = 1
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


@dataclass(frozen=True)
class Verdict:
    """A budget and whether it holds. ``uncertain``: the interval reaches to both sides of the limit."""

    name: str
    limit: float
    value: float | None
    verdict: str
    target: str | None = None
    output: str | None = None
    low: float | None = None
    high: float | None = None
    uncertain: bool = False


@dataclass(frozen=True)
class Report:
    """Everything one run found out. ``details`` holds what only the HTML page draws (see ``report_html``); plain JSON values.

    Keys of ``details`` in use, each optional: ``title``, ``card``, ``recipe``, ``steps`` (list of {name, seconds, text}), ``notes`` (list of
    str), ``branches`` (list of rows), ``latency_samples_ms`` {candidate: [..]}, ``confusion`` {output: {labels, before, after}},
    ``curves`` {series: [[x, y], ..]}, ``parity`` (list of rungs), ``layers``, ``files`` {name: bytes}.
    """

    environment: Mapping[str, Any]
    measurements: Sequence[Measurement] = ()
    budgets: Sequence[Verdict] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def missed(self) -> list[Verdict]:
        return [verdict for verdict in self.budgets if verdict.verdict == "missed"]

    def find(self, name: str, **where: Any) -> list[Measurement]:
        """Measurements called ``name`` whose fields equal ``where``."""
        return [m for m in self.measurements if m.name == name and all(getattr(m, key) == value for key, value in where.items())]

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "environment": dict(self.environment),
            "measurements": [asdict(m) for m in self.measurements],
            "budgets": [asdict(b) for b in self.budgets],
            "details": dict(self.details),
        }

    def to_json(self) -> bytes:
        """The bytes of ``report.json``."""
        return (json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n").encode()

    def save(self, path: Path) -> None:
        write_bytes(path, self.to_json())


def read(path: Path) -> Report:
    """Read a report.

    Raises:
        EdgemmError: Not a report, or of a newer format.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        if plain.get("format") != FORMAT:
            raise EdgemmError(
                f"{path} is a report of format {plain.get('format')!r}.",
                why=f"this edgemm reads format {FORMAT}.",
                fix="measure again with this edgemm, or read it with the one that wrote it.",
            )
        return Report(
            plain["environment"],
            [Measurement(**{**m, "modalities": tuple(m["modalities"]) if m.get("modalities") else None}) for m in plain["measurements"]],
            [Verdict(**b) for b in plain["budgets"]],
            plain.get("details", {}),
        )
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise EdgemmError(
            f"{path} is not an edgemm report.", why=str(err), fix="give the report.json that benchmark or compress wrote."
        ) from err


def judge(budgets: Mapping[str, Any], measurements: Iterable[Measurement], targets: Iterable[str], outputs: Iterable[str]) -> list[Verdict]:
    """Hold the bundle's measurements against the budgets, one verdict for every budget, target and (where it applies) output.

    A budget nobody measured is ``unknown``.
    """
    measured = [m for m in measurements if m.subject == "bundle"]
    outputs = list(outputs)
    verdicts = []
    for target in targets:
        for name, limit in budgets.items():
            per_output = name == "accuracy_drop_points"
            limits = limit if isinstance(limit, Mapping) else dict.fromkeys(outputs if per_output else [None], limit)
            for output, bound in limits.items():
                found = [m for m in measured if m.name == name and m.target == target and m.output == output]
                verdicts.append(_verdict(name, float(bound), found[0] if found else None, target, output))
    return verdicts


def _verdict(name: str, limit: float, measured: Measurement | None, target: str, output: str | None) -> Verdict:
    if measured is None:
        return Verdict(name, limit, None, "unknown", target, output)
    low, high = measured.low, measured.high
    uncertain = low is not None and high is not None and low <= limit < high
    return Verdict(name, limit, measured.value, "met" if measured.value <= limit else "missed", target, output, low, high, uncertain)
