"""How the report page writes names, numbers and units."""

from __future__ import annotations

import math

from edgemm.contracts.interval import Interval
from edgemm.contracts.report import Measurement
from edgemm.contracts.task import guarded_metrics

NAMES = {
    "latency_p50_ms": "Latency, median", "latency_p90_ms": "Latency, 90th percentile", "latency_p95_ms": "Latency, 95th percentile",
    "latency_p99_ms": "Latency, 99th percentile", "load_ms": "Load", "first_ms": "First inference", "cold_start_ms": "Cold start",
    "peak_rss_mib": "Peak memory", "size_mib": "Size", "energy_mj": "Energy an inference", "macs": "Multiply-accumulates",
    "latency_max_ms": "Latency, slowest call", "jitter_ms": "Jitter", "cpu_ms": "Processor time a call", "rss_mib": "Memory while running",
    "unique_mib": "Memory of its own", "throughput_per_s": "Throughput", "paced_p50_ms": "At the pace, median",
    "paced_p95_ms": "At the pace, 95th percentile", "paced_p99_ms": "At the pace, 99th percentile",
    "paced_max_ms": "At the pace, slowest call", "paced_jitter_ms": "At the pace, jitter",
    "paced_late_p95_ms": "At the pace, begun late by (95th percentile)", "paced_dropped": "At the pace, dropped",
    "paced_cpu_ms": "At the pace, processor time a step", "energy_j_per_hour": "Energy an hour at the pace",
    "parameters": "Parameters",
    "sqnr_db": "Signal to error (SQNR)", "accuracy_drop_points": "Loss against the original",
}  # fmt: skip
UNITS = {"_points": "points", "_ms": "ms", "_mib": "MiB"}


def name_of(measured: str, output: str | None = None) -> str:
    """A measurement's name in words; one that has none stands as it is."""
    return (NAMES.get(measured) or guarded_metrics().get(measured, measured)) + (f", {output}" if output else "")


def unit_of(measured: str) -> str:
    """The unit that a name ends in."""
    return next((word for end, word in UNITS.items() if measured.endswith(end)), "")


def number(value: float) -> str:
    """Three digits; above 100 whole, in groups of thousands; a dash where there is no number."""
    if not math.isfinite(value):
        return "–"
    words = f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}" if abs(value) >= 0.001 else f"{value:.3g}"
    return words.replace("-", "−", 1)


def bounds(known: Interval | None) -> str:
    """The interval of a value in small print; "" where there is none."""
    return "" if known is None or known.low is None or known.high is None else f"<small>{number(known.low)} … {number(known.high)}</small>"


def shown(m: Measurement) -> str:
    """A value with its unit; ratios as per cent."""
    return f"{in_unit(m, m.value)} {'%' if m.unit == 'ratio' else m.unit}".strip()


def in_unit(m: Measurement, value: float) -> str:
    """``value`` in the unit that ``shown`` writes for ``m``."""
    return f"{100 * value:.2f}" if m.unit == "ratio" and math.isfinite(value) else number(value)
