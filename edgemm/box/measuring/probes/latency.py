"""Milliseconds of each call."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgemm.box.measuring.statistics import percentiles, spread_of
from edgemm.contracts.probe import Probe
from edgemm.contracts.report import Measurement

SHARES = (50, 90, 95, 99)


class Latency(Probe):
    """Wall time from one call's end to the next one's; what lies between (the loop and the other probes) is under a microsecond."""

    def __init__(self) -> None:
        self._samples: list[float] = []
        self._last = 0

    def start(self) -> None:
        self._samples = []
        self._last = time.perf_counter_ns()

    def observe(self, answers: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray] | None) -> None:
        now = time.perf_counter_ns()
        self._samples.append((now - self._last) / 1e6)
        self._last = time.perf_counter_ns()

    def stop(self) -> list[float]:
        return self._samples

    def summarise(self, samples: Sequence[Any]) -> list[Measurement]:
        """Percentiles over all calls, their intervals by resampling rounds; the slowest call; jitter.

        Jitter is the mean difference between a call and the next one of its round, as RFC 3550 takes it of packets.
        """
        count = sum(len(round_) for round_ in samples)
        measured = [
            Measurement(f"latency_p{share}_ms", value.value, "ms", low=value.low, high=value.high, n=count)
            for share, value in zip(SHARES, percentiles(samples, SHARES), strict=True)
        ]
        measured.append(Measurement("latency_max_ms", max(max(round_) for round_ in samples), "ms", n=count))
        steps = [np.abs(np.diff(round_)) for round_ in samples if len(round_) > 1]
        if steps:
            jitter = spread_of([float(step.mean()) for step in steps])
            measured.append(Measurement("jitter_ms", jitter.value, "ms", low=jitter.low, high=jitter.high, n=count))
        return measured
