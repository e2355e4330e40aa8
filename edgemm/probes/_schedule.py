"""Who is measured when: every candidate in a process of its own, one at work at a time, rounds interleaved in random order.

Two runtimes in one process are timed wrong by up to 10 times, since their thread pools spin against each other; and whatever else the
box does must fall on all candidates alike.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.card import Card
from edgemm.errors import EdgemmError, MeasureError
from edgemm.probes._process import WorkerProcess
from edgemm.targets._protocol import LayerRan

Progress = Callable[[str, float], None]
"""Called with a text and the share done, 0 to 1."""

LEAST_ROUNDS, LEAST_CALLS = 5, 3  # below that an interval over rounds means nothing
LAUNCHES = 3  # separate launches behind a cold start
PROBES = ("latency", "memory")
SETTLE_S = 0.005  # pause before a worker's turn, so that the last one's threads have gone to sleep


@dataclass(frozen=True)
class Candidate:
    """One thing to measure.

    Attributes:
        name: Unique within a call.
        subject: original, float, default or bundle.
        target: Plugin name in ``targets/``.
        artifact: What the target opens.
        options: Runtime options.
        target_options: Options of the target itself, as a recipe gives them.
        card: The card, where ``artifact`` does not explain itself.
        precision_asked: ``f32``, ``int8+bf16``; a candidate that runs less than it was asked is refused. ``default`` or None = anything.
        source: What it belongs to as the user knows it, such as a bundle's path; "" = ``name``.
    """

    name: str
    subject: str
    target: str
    artifact: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    card: Path | None = None
    precision_asked: str | None = None
    target_options: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True)
class Timing:
    """What one candidate showed.

    Attributes:
        samples: Probe name -> its samples, one entry a round; rounds of all candidates belong together by position.
        load_ms: Opening the artifact.
        first_ms: The first call.
        cold_start_ms: Launch of the process to the first result, one number a launch (files were in the page cache).
        precision_ran: What really ran.
        warm: Whether the warm-up became stable within its time.
        error: Why there is no number; everything else is empty then.
    """

    samples: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    load_ms: float = 0.0
    first_ms: float = 0.0
    cold_start_ms: tuple[float, ...] = ()
    precision_ran: str = ""
    layers: tuple[LayerRan, ...] = ()
    warm: bool = False
    error: EdgemmError | None = None

    @property
    def samples_ms(self) -> tuple[Sequence[float], ...]:
        """Milliseconds of each call, one sequence a round."""
        return self.samples.get("latency", ())

    @property
    def peak_rss_mib(self) -> float:
        """Highest resident memory of the process."""
        return max(self.samples.get("memory", (0.0,)))

    def require(self) -> Timing:
        """Itself, or its error raised."""
        if self.error is not None:
            raise self.error
        return self


def time_candidates(
    candidates: Sequence[Candidate],
    feed: Mapping[str, np.ndarray],
    *,
    rounds: int = 12,
    calls: int = 40,
    seconds: float = 20.0,
    warmup_s: float = 1.0,
    launches: int = LAUNCHES,
    limit_s: float = 300.0,
    seed: int = 0,
    probes: Sequence[str] = PROBES,
    progress: Progress | None = None,
) -> dict[str, Timing]:
    """Time the candidates against each other.

    Args:
        feed: One batch, the same for all.
        calls: Calls a round.
        seconds: Bound on one candidate's timed calls; slow ones make fewer calls, then fewer rounds (all candidates alike).
        warmup_s: Bound on warming up.
        launches: Launches of their own behind a cold start; 0 = none is measured, and the processes start side by side.
        limit_s: Longest silence of a worker before it counts as hung.
        seed: Of the order within rounds.
        probes: Plugins of ``probes/`` that watch the timed rounds.

    Returns:
        A Timing for each candidate's name; one that crashed, hung or ran another precision than asked holds the ``error``.

    Raises:
        MeasureError: Two candidates have one name.
    """
    if len({candidate.name for candidate in candidates}) < len(candidates):
        raise MeasureError("two candidates have the same name.", fix="give every candidate a name of its own.")
    with tempfile.TemporaryDirectory(prefix="edgemm-") as scratch, ExitStack() as stack:
        file = Path(scratch) / "feed.npz"
        np.savez(file, **dict(feed))  # type: ignore[arg-type]  # its stub takes the keyword allow_pickle for an array
        tell = progress or (lambda text, share: None)
        run = _Run(file, rounds, calls, seconds, warmup_s, limit_s, list(probes), random.Random(seed), tell, stack)
        run.launch(candidates, launches)
        run.warm()
        run.time()
        return {candidate.name: run.finish(candidate) for candidate in candidates}


class _Run:
    """The state of one ``time_candidates``: living workers, and what each has shown so far."""

    def __init__(
        self, feed: Path, rounds: int, calls: int, seconds: float, warmup_s: float, limit_s: float, probes: list[str],
        order: random.Random, tell: Progress, stack: ExitStack,
    ) -> None:  # fmt: skip
        self._feed, self._rounds, self._calls, self._seconds, self._probes = feed, rounds, calls, seconds, probes
        self._warmup_s, self._limit_s, self._order, self._tell, self._stack = warmup_s, limit_s, order, tell, stack
        self._workers: dict[str, WorkerProcess] = {}
        self._shown: dict[str, dict[str, Any]] = {}
        self._errors: dict[str, EdgemmError] = {}

    def launch(self, candidates: Sequence[Candidate], launches: int) -> None:
        """Start every candidate; with ``launches``, one after the other and that many times, keeping the last process."""
        started = []
        for candidate in candidates:
            self._shown[candidate.name] = {"cold": [], "samples": {name: [] for name in self._probes}}
            for number in range(max(1, launches)):
                worker = self._stack.enter_context(WorkerProcess(candidate.name))
                worker.send("open", **_opening(candidate, self._feed))
                self._workers[candidate.name] = worker
                if not launches:
                    started.append(candidate.name)
                elif not self._opened(candidate.name, cold=True):
                    break
                elif number + 1 < launches:
                    worker.stop()
            self._tell(f"launched {candidate.name}", len(self._shown) / len(candidates) * 0.3)
        for name in started:
            self._opened(name, cold=False)

    def warm(self) -> None:
        for name in list(self._workers):
            answer = self._ask(name, "warm", seconds=self._warmup_s, probes=self._probes)
            if answer:
                self._shown[name] |= answer

    def time(self) -> None:
        """The rounds. Slow candidates bound the number of rounds for all, their own calls for themselves."""
        alive = {name: self._shown[name]["call_ms"] for name in self._workers}
        if not alive:
            return
        rounds = min(self._rounds, max(LEAST_ROUNDS, min(int(self._seconds * 1e3 / (LEAST_CALLS * ms)) for ms in alive.values())))
        for number in range(rounds):
            order = sorted(self._workers)
            self._order.shuffle(order)
            for name in order:
                time.sleep(SETTLE_S)
                calls = min(self._calls, max(LEAST_CALLS, int(self._seconds * 1e3 / rounds / alive[name])))
                answer = self._ask(name, "round", calls=calls)
                for probe, samples in (answer or {"samples": {}})["samples"].items():
                    self._shown[name]["samples"][probe].append(samples)
            self._tell(f"round {number + 1} of {rounds}", 0.3 + 0.7 * (number + 1) / rounds)

    def finish(self, candidate: Candidate) -> Timing:
        """What the candidate showed, or why there is nothing to show."""
        name = candidate.name
        facts = self._ask(name, "describe") if name in self._workers else None
        if facts is None:
            return Timing(error=self._errors[name])
        if _is_less(facts["precision"], candidate.precision_asked):
            return Timing(error=_lied(candidate, facts["precision"]))
        shown = self._shown[name]
        return Timing(
            samples={probe: tuple(samples) for probe, samples in shown["samples"].items()}, load_ms=shown["load_ms"],
            first_ms=shown["first_ms"], cold_start_ms=tuple(shown["cold"]), precision_ran=facts["precision"], warm=shown["stable"],
            layers=tuple(LayerRan(**layer) for layer in facts["layers"]),
        )  # fmt: skip

    def _opened(self, name: str, *, cold: bool) -> bool:
        worker = self._workers[name]
        try:
            answer = worker.receive(limit_s=self._limit_s)
        except EdgemmError as err:
            self._drop(name, err)
            return False
        if cold:
            self._shown[name]["cold"].append((time.perf_counter() - worker.started) * 1e3)
        self._shown[name] |= answer
        return True

    def _ask(self, name: str, do: str, **arguments: Any) -> dict[str, Any] | None:
        """The answer, or None with the candidate dropped: the rest goes on without it."""
        try:
            return self._workers[name].ask(do, limit_s=self._limit_s, **arguments)
        except EdgemmError as err:
            self._drop(name, err)
            return None

    def _drop(self, name: str, err: EdgemmError) -> None:
        self._errors[name] = err
        self._workers.pop(name).stop()


def predict(
    candidate: Candidate,
    data: str | Path,
    card: Card,
    split: str = "test",
    *,
    limit: int | None = None,
    skip_bad_rows: bool = False,
    limit_s: float = 600.0,
    progress: Callable[[int], None] | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Run a whole split through a candidate, in a process of its own.

    A deployed candidate runs at batch 1, the shape that ships; the torch original at batch 64.

    Args:
        limit: First rows only.
        progress: Called with the number of rows done.

    Returns:
        (output -> predictions, output -> truth), both (rows, ...); truth only for outputs that have labels. Memory-mapped, read-only.

    Raises:
        EdgemmError: What the worker raised; MeasureError when it crashed or hung.
    """
    with tempfile.TemporaryDirectory(prefix="edgemm-") as scratch, WorkerProcess(candidate.name) as worker:
        worker.ask("open", limit_s=limit_s, **_opening(candidate, None))
        worker.ask(
            "predict", limit_s=limit_s, progress=progress, data=str(data), card=card.to_dict(),
            card_path=str(card.path) if card.path else None, split=split, batch_size=64 if candidate.target == "torch" else 1,
            limit=limit, out=scratch, skip_bad_rows=skip_bad_rows,
        )  # fmt: skip
        # the mapping outlives the file's name
        found = {path.stem: np.load(path, mmap_mode="r") for path in sorted(Path(scratch).glob("*.npy"))}
    predictions = {name.removeprefix("prediction."): array for name, array in found.items() if name.startswith("prediction.")}
    truth = {name.removeprefix("truth."): array for name, array in found.items() if name.startswith("truth.")}
    return predictions, truth


def _opening(candidate: Candidate, feed: Path | None) -> dict[str, Any]:
    return {
        "target": candidate.target,
        "target_options": dict(candidate.target_options),
        "artifact": str(candidate.artifact.resolve()),
        "options": dict(candidate.options),
        "feed": str(feed) if feed else None,
        "cpus": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [],
    }


def _is_less(ran: str, asked: str | None) -> bool:
    """Whether something ran that is less precise than f32 and that nobody asked for."""
    if asked in (None, "default"):
        return False
    return bool(set(ran.split("+")) - set(str(asked).split("+")) - {"f32", "f64"})


def _lied(candidate: Candidate, ran: str) -> MeasureError:
    return MeasureError(
        f"'{candidate.name}' was asked to run in {candidate.precision_asked} and ran {ran}.",
        why="its numbers would stand under a label that is not true.",
        fix="state the float precision (the target's float_options() force f32), or label it by what it runs.",
    )
