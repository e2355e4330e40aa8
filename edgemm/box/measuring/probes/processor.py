"""Processor time a call: what it costs whoever shares the box, however many threads it runs on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgemm.box.measuring.statistics import spread_of
from edgemm.contracts.probe import Probe
from edgemm.contracts.report import Measurement

AT_PACE = True


class Processor(Probe):
    """Processor milliseconds of all threads of the process a call; what waits by spinning counts, since it costs as much.

    Args:
        pid: The process that runs the model, where it is not this one.
    """

    def __init__(self, *, pid: int | None = None) -> None:
        self._clock = time.CLOCK_PROCESS_CPUTIME_ID if pid is None else ~pid << 3 | 2  # clock_getcpuclockid(3)
        self._calls, self._began = 0, 0.0

    def start(self) -> None:
        self._calls, self._began = 0, time.clock_gettime(self._clock)

    def observe(self, answers: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray] | None) -> None:
        self._calls += 1

    def stop(self) -> float:
        """Milliseconds a call."""
        return (time.clock_gettime(self._clock) - self._began) * 1e3 / max(1, self._calls)

    def summarise(self, samples: Sequence[Any]) -> list[Measurement]:
        spread = spread_of(samples)
        return [Measurement("cpu_ms", spread.value, "ms", low=spread.low, high=spread.high, n=len(samples))]
