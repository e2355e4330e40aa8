"""Throughput: samples a second against the batch and the number of parallel streams."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from edgemm.box.measuring.candidate import Candidate
from edgemm.box.measuring.process import WorkerProcess
from edgemm.box.measuring.statistics import spread_of
from edgemm.contracts.timing_parts import Throughput
from edgemm.errors import EdgemmError

ROUNDS = 3


def throughputs(
    candidates: Sequence[Candidate],
    feed: Mapping[str, np.ndarray],
    *,
    batches: Sequence[int] = (1,),
    streams: Sequence[int] = (1,),
    seconds: float = 1.0,
    limit_s: float = 300.0,
    seed: int = 0,
    progress: Callable[[str, float], None] | None = None,
) -> list[Throughput]:
    """A row for every combination.

    A stream is a session of its own in a thread of its own, with its share of the cores. One candidate's process lives at a time for a
    combination and round, so nothing of the others is in memory.

    Args:
        feed: One sample.
        seconds: Of each combination in each round.
    """
    order, tell = random.Random(seed), progress or (lambda text, share: None)
    todo = [(candidate, batch, count) for candidate in candidates for batch in batches for count in streams]
    rates: dict[tuple[str, int, int], list[float]] = {(candidate.name, batch, count): [] for candidate, batch, count in todo}
    errors: dict[tuple[str, int, int], str] = {}
    with tempfile.TemporaryDirectory(prefix="edgemm-") as scratch:
        file = Path(scratch) / "feed.npz"
        np.savez(file, **dict(feed))  # type: ignore[arg-type]  # its stub takes the keyword allow_pickle for an array
        for number in range(ROUNDS):
            order.shuffle(todo)
            for index, (candidate, batch, count) in enumerate(todo):
                key = (candidate.name, batch, count)
                if key in errors:
                    continue
                tell(f"{candidate.name}, batch {batch}, {count} streams", (number + index / len(todo)) / ROUNDS)
                try:
                    with WorkerProcess(candidate.name, times=True) as worker:
                        opening = candidate.opening(file)
                        answer = worker.ask("throughput", limit_s=limit_s, batch=batch, streams=count, seconds=seconds, **opening)
                    rates[key].append(answer["per_s"])
                except EdgemmError as err:
                    errors[key] = f"{err.what} {err.why}".strip()
    return [_row(key, rates[key], errors.get(key)) for key in rates]


def _row(key: tuple[str, int, int], rates: Sequence[float], error: str | None) -> Throughput:
    if not rates or error is not None:
        return Throughput(*key, error=error)
    spread = spread_of(rates)
    return Throughput(*key, spread.value, spread.low, spread.high)
