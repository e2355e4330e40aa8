"""What a run can say about itself: what it did, how much memory it holds, how its sources do."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgemm.box.serving.source_threads import Feeder


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        ran: Input -> how often its branch ran.
        late: Decisions for which data had to wait for more than two periods.
        note: Where another target ran than the bundle's first: which, and why.
    """

    seconds: float
    decisions: int
    events: int
    ran: Mapping[str, int]
    late: int
    target: str
    precision: str
    in_parts: bool
    latency_p50_ms: float
    latency_p95_ms: float
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        branches = ", ".join(f"{name} {count}" for name, count in self.ran.items())
        how = "branch by branch" if self.in_parts else "as a whole"
        return (
            f"{self.decisions} decisions and {self.events} events in {self.seconds:.1f} s "
            f"({self.target}, {self.precision}, {how}: {branches}); "
            f"latency p50 {self.latency_p50_ms:.1f} ms, p95 {self.latency_p95_ms:.1f} ms" + (f"\nnote: {self.note}" if self.note else "")
        )


def rss_mib() -> float:
    """Resident memory of this process."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return round(pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20), 1)


def source_status(feeder: Feeder, now: float) -> dict[str, Any]:
    """How a source does, as plain values without secrets."""
    drift = feeder.timeline.drift_ppm()
    return {
        "name": feeder.source.describe(),
        "inputs": list(feeder.source.inputs),
        "state": feeder.state,
        "error": feeder.error,
        "reconnects": feeder.reconnects,
        "received": feeder.received,
        "rate_hz": round(feeder.rate_hz(), 1),
        "silent_s": round(now - feeder.last_s, 1),
        "skew_s": round(feeder.skew_s(), 3),
        "drift_ppm": None if drift is None else round(drift, 1),
        "notes": list(feeder.source.notes),
    }
