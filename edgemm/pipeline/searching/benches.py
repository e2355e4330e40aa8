"""Where a search times graphs: this machine, or one over ssh. On both, nobody else measures meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgemm.box.measuring.benchmark_options import BenchmarkOptions
from edgemm.box.measuring.candidate import Candidate
from edgemm.box.measuring.schedule import time_candidates
from edgemm.box.measuring.timed import Timed, shown_by
from edgemm.box.measuring.tuning import Raced, race
from edgemm.box.remote.benchmark import RemoteOptions, measure_there
from edgemm.box.remote.device import RemoteDevice
from edgemm.box.remote.fleet_file import LOCAL
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.report import Report
from edgemm.errors import EdgemmError, MeasureError, RemoteError
from edgemm.pipeline.job import Job

Feed = Mapping[str, np.ndarray]
OPTIONS = BenchmarkOptions()
"""How a finished bundle is measured on a board."""


@dataclass(frozen=True)
class Place:
    """Where to measure, as a user names it.

    Attributes:
        url: ``local`` or ``ssh://user@host:port``.
        setup: Install what is missing there.
        config: ssh's configuration file instead of the user's own.
    """

    url: str = LOCAL
    setup: bool = False
    config: Path | None = None

    @property
    def is_here(self) -> bool:
        """Whether it is this machine."""
        return self.url == LOCAL


class Bench(Protocol):
    """A device that times graphs.

    Attributes:
        facts: What tells it from others, for the keys of what was measured there; {} of this machine, which a key knows.
        name: As a reader knows it.
    """

    facts: Mapping[str, Any]
    name: str

    def cannot_run(self, floats: Deployment) -> str:
        """Why a target cannot run there; "" where it can."""
        ...

    def timed(self, candidates: Sequence[Candidate], feed: Feed, **how: Any) -> Timed:
        """What the candidates show; one that fails is left out.

        Args:
            how: As ``schedule.time_candidates`` takes it.

        Raises:
            EdgemmError: The first of them failed.
            RemoteError: The device is gone.
        """
        ...

    def race(self, deployment: Deployment, feed: Feed) -> list[Raced]:
        """What runtime options the graph likes best; [] where graphs run with the safe ones."""
        ...

    def benchmark(self, bundle: Path, job: Job) -> Report | None:
        """The finished bundle as it is measured there; None where that was done while it was made."""
        ...


class ThisMachine:
    """The machine that the search runs on, between two batches of trials."""

    facts: Mapping[str, Any] = {}
    name = "this machine"

    def __init__(self, job: Job) -> None:
        self._job = job

    def cannot_run(self, floats: Deployment) -> str:
        return floats.plugin().cannot_run()

    def timed(self, candidates: Sequence[Candidate], feed: Feed, **how: Any) -> Timed:
        timings = time_candidates(candidates, feed, progress=self._job.show, **how)
        timings[candidates[0].name].require()
        return shown_by(candidates, timings)

    def race(self, deployment: Deployment, feed: Feed) -> list[Raced]:
        return race(deployment, feed, progress=self._job.show)

    def benchmark(self, bundle: Path, job: Job) -> Report | None:
        return None


class Board:
    """A machine over ssh. Graphs run there with the options that are safe for them, as the finished bundle will."""

    def __init__(self, device: RemoteDevice, place: Place, job: Job) -> None:
        self._device, self._place, self._job = device, place, job
        self.facts, self.name = device.facts, place.url

    def cannot_run(self, floats: Deployment) -> str:
        return ""  # connecting to it has shown that

    def timed(self, candidates: Sequence[Candidate], feed: Feed, **how: Any) -> Timed:
        timed, errors = self._device.timed(candidates, feed, **how)
        if candidates[0].name in errors:
            raise errors[candidates[0].name]
        return timed

    def race(self, deployment: Deployment, feed: Feed) -> list[Raced]:
        return []

    def benchmark(self, bundle: Path, job: Job) -> Report | None:
        remote = RemoteOptions(self._place.url, setup=self._place.setup, config=self._place.config)
        options = replace(OPTIONS, skip_bad_rows=job.skip_bad_rows)
        return measure_there([bundle], remote, options, data=str(job.data), progress=job.progress)


@contextmanager
def opened(place: Place, target: str, job: Job) -> Iterator[Bench]:
    """The device, connected.

    Raises:
        EdgemmError: It cannot be reached, or lacks the target.
    """
    if place.is_here:
        yield ThisMachine(job)
        return
    remote = RemoteOptions(place.url, setup=place.setup, config=place.config)
    with RemoteDevice(remote, target, job.progress) as device:
        yield Board(device, place, job)


def require_timing(bench: Bench, floats: Deployment) -> None:
    """Raises MeasureError where the target cannot run there, so that nothing of it can be timed."""
    if why := bench.cannot_run(floats):
        raise MeasureError(
            f"a search that counts time cannot measure {floats.target} here.",
            why=why,
            fix="measure on the machine that it is for (--measure ssh://user@host), or keep to budgets on size_mib and "
            "accuracy_drop_points alone.",
        )


def is_gone(error: EdgemmError | None) -> bool:
    """Whether an error is the device's, which no graph is to blame for."""
    return isinstance(error, RemoteError)
