"""Highest resident memory of the process that runs the model, from its launch on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.probes._protocol import Probe
from edgemm.report import Measurement


class Memory(Probe):
    """Peak resident memory in MiB: the interpreter, the runtime, the model and what it needs to run."""

    def start(self) -> None: ...

    def observe(self, answers: Mapping[str, np.ndarray], targets: Mapping[str, np.ndarray] | None) -> None: ...

    def stop(self) -> float:
        return peak_rss_mib()

    def summarise(self, samples: Sequence[Any]) -> list[Measurement]:
        return [Measurement("peak_rss_mib", max(samples), "MiB", n=1)]


def peak_rss_mib() -> float:
    """VmHWM of this process; unlike getrusage it starts anew with the program."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    import resource  # absent outside Unix

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
