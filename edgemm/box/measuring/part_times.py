"""What each part of a model takes on its target: every branch, and the rest. Whether a gate pays is told by these.

The scheduler's half (``time_parts``) and the worker's half (``run_parts``), which runs in a process of its own.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from edgemm.box.bundle import parts as splits
from edgemm.box.bundle.parts import Parts
from edgemm.box.measuring.candidate import Candidate
from edgemm.box.measuring.process import WorkerProcess
from edgemm.contracts.target import Session

REST = ""
"""Stands for the rest among the names of branches."""
CALLS, WARM_CALLS = 60, 10


def time_parts(candidate: Candidate, feed: Mapping[str, np.ndarray], *, limit_s: float = 300.0) -> dict[str, float]:
    """Input -> milliseconds of its branch, the median of its calls; ``REST`` -> those of the rest.

    Args:
        candidate: Its model is the ``split.json`` of the parts.
        feed: One sample, by input.

    Raises:
        EdgemmError: What the worker raised; MeasureError when it crashed or hung.
    """
    with tempfile.TemporaryDirectory(prefix="edgemm-") as scratch, WorkerProcess(candidate.name) as worker:
        file = Path(scratch) / "feed.npz"
        np.savez(file, **dict(feed))  # type: ignore[arg-type]  # its stub takes the keyword allow_pickle for an array
        answer = worker.ask("part_times", limit_s=limit_s, folder=str(candidate.model.parent.resolve()), **candidate.opening(file))
    return {str(name): float(ms) for name, ms in answer["ms"].items()}


def run_parts(open_part: Callable[[Path], Session], folder: str, feed: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The worker's half. Parts take turns, as they do in use: each finds the caches as another one left them."""
    with Parts(splits.read(Path(folder)), open_part) as parts:
        embedded = {name: parts.embed(name, feed) for name in parts.cuts}
        calls: dict[str, Callable[[], Any]] = {name: lambda name=name: parts.embed(name, feed) for name in parts.cuts}  # type: ignore[misc]
        calls[REST] = lambda: parts.answer(embedded, {}, feed)
        taken: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(CALLS + WARM_CALLS):
            for name, call in calls.items():
                began = time.perf_counter()
                call()
                taken[name].append((time.perf_counter() - began) * 1e3)
    return {"ms": {name: median(times[WARM_CALLS:]) for name, times in taken.items()}}
