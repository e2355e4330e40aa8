"""Memory of the process that runs the model: the highest since its launch, and what it holds while it runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from edgemm.contracts.probe import Probe
from edgemm.contracts.report import Measurement

KEYS = {"peak": "peak_rss_mib", "rss": "rss_mib", "unique": "unique_mib"}


class Memory(Probe):
    """Resident memory in MiB: the interpreter, the runtime, the model and what it needs to run.

    ``rss`` counts shared libraries whole, ``unique`` only what would be free again if this process ended.

    Args:
        pid: The process that runs the model, where it is not this one.
    """

    def __init__(self, *, pid: int | None = None) -> None:
        self._pid = pid or os.getpid()

    def start(self) -> None: ...

    def observe(self, answers: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray] | None) -> None: ...

    def stop(self) -> dict[str, float]:
        """``peak``, ``rss`` and, where the kernel tells it, ``unique``."""
        return memory_mib(self._pid)

    def summarise(self, samples: Sequence[Any]) -> list[Measurement]:
        measured = [Measurement("peak_rss_mib", max(sample["peak"] for sample in samples), "MiB", n=len(samples))]
        for key in ("rss", "unique"):
            values = [sample[key] for sample in samples if key in sample]
            measured += [Measurement(KEYS[key], median(values), "MiB", n=len(values))] if values else []
        return measured


def memory_mib(pid: int) -> dict[str, float]:
    """Resident memory of a process; ``peak`` is VmHWM, which unlike getrusage starts anew with the program."""
    status = _kib(Path(f"/proc/{pid}/status"))
    if "VmHWM" not in status:
        import resource  # absent outside Unix

        return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    memory = {"peak": status["VmHWM"] / 1024, "rss": status["VmRSS"] / 1024}
    rollup = _kib(Path(f"/proc/{pid}/smaps_rollup"))
    if "Private_Clean" in rollup:
        memory["unique"] = (rollup["Private_Clean"] + rollup["Private_Dirty"]) / 1024
    return memory


def _kib(path: Path) -> dict[str, int]:
    """The lines ``Name: 123 kB`` of a file of /proc."""
    try:
        rows = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {row[0].rstrip(":"): int(row[1]) for row in rows if len(row) == 3 and row[2] == "kB"}
