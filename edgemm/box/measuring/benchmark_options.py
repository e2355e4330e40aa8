"""How a benchmark measures: one value that travels, also to another machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgemm.box.measuring.schedule import LAUNCHES

ROUNDS = 16  # two for each launch


@dataclass(frozen=True)
class BenchmarkOptions:
    """What is measured, and how thoroughly.

    Attributes:
        target: Measure on this one only.
        pace: Also measure calls at this pace: ``5hz``, or ``image=10hz,audio=1hz``.
        streams, batches: Also measure the throughput of so many parallel streams and samples a call, in every combination.
        roofline: Tell how near the first candidate's branches come to the box's peaks, and which layers waste time.
        rounds, calls: Timed rounds, and calls in each.
        seconds: Bound on one candidate's timed calls.
        warmup_s: Bound on warming up, after each launch.
        launches: Processes of each candidate that share the rounds, each with a cold start; 0 = one, and no cold start.
        limit: First rows of the test split only.
        seed: Of the order within rounds, and of synthetic samples.
        stream: A recording (a folder, a clip) that is also played through a bundle's gates.
        empty: ``LABEL=SHARE``: how many of all moments are empty, where the test split goes through gates.
        skip_bad_rows: Leave out rows that cannot be read; the report counts them.
    """

    target: str | None = None
    pace: str | None = None
    streams: Sequence[int] | None = None
    batches: Sequence[int] | None = None
    roofline: bool = True
    rounds: int = ROUNDS
    calls: int = 40
    seconds: float = 20.0
    warmup_s: float = 1.0
    launches: int = LAUNCHES
    limit: int | None = None
    seed: int = 0
    skip_bad_rows: bool = False
    stream: str | None = None
    empty: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values; ``BenchmarkOptions(**plain)`` is the way back."""
        return asdict(self)

    def timing(self) -> dict[str, Any]:
        """What of it ``schedule.time_candidates`` takes."""
        names = ("rounds", "calls", "seconds", "warmup_s", "launches", "seed")
        return {name: getattr(self, name) for name in names}
