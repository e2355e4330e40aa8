"""Energy a call, from the box's own meter; where none can be read it stays unknown and is never estimated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgemm.box.devices.power import open_meter
from edgemm.box.measuring.statistics import spread_of
from edgemm.contracts.probe import Probe
from edgemm.contracts.report import Measurement

AT_PACE = True


class Energy(Probe):
    """Millijoules of the whole meter's domain (processor package or board, idle power included) a call."""

    def __init__(self) -> None:
        self._meter, _ = open_meter()
        self._calls = 0

    def start(self) -> None:
        self._calls = 0
        if self._meter:
            self._meter.start()

    def observe(self, answers: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray] | None) -> None:
        self._calls += 1

    def stop(self) -> float | None:
        """Millijoules a call; None where no meter can be read, or it showed nothing."""
        used = self._meter.stop_mj() if self._meter else None
        return None if used is None else used / max(1, self._calls)

    def summarise(self, samples: Sequence[Any]) -> list[Measurement]:
        energies = [sample for sample in samples if sample is not None]
        if not energies:
            return []
        spread = spread_of(energies)
        return [Measurement("energy_mj", spread.value, "mJ", low=spread.low, high=spread.high, n=len(energies))]
