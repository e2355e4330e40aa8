"""Whether the box was busy with other work before we began: then milliseconds are not to be trusted, only ratios."""

from __future__ import annotations

import os

from edgemm.store.machine import usable_cores

BUSY = 0.5  # load per core, before we start, from which a report warns


def load() -> float:
    """Jobs that ran or waited for a processor during the last minute; 0 where the system does not tell. Ask before starting any work."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def busy(before: float) -> list[str]:
    """A note for the report where ``before``, the load when we began, was high; else none."""
    cores = usable_cores()
    if before < BUSY * cores:
        return []
    return [f"Other jobs used the processor (load {before:.1f} on {cores} cores): trust ratios inside this report, not milliseconds."]
