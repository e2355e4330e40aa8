"""Who is measured when: every candidate in a process of its own, one at work at a time, rounds interleaved in random order.

Two runtimes in one process are timed wrong by up to 10 times, since their thread pools spin against each other; and whatever else the
box does must fall on all candidates alike. A process has a speed of its own, by where its memory happens to lie: eight processes of one
model differed by 1.4% (one thread) to 2% (two), five times what rounds alone explain. So rounds are spread over several launches.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from edgemm.box.devices import disturbance, exclusive
from edgemm.box.devices.disturbance import Watch
from edgemm.box.measuring.candidate import Candidate, Timing, is_less, lied
from edgemm.box.measuring.process import WorkerProcess
from edgemm.contracts.probe import CALLS, watching
from edgemm.contracts.target import LayerRan
from edgemm.contracts.timing_parts import Seen, TimedTurn
from edgemm.errors import EdgemmError, MeasureError

__all__ = ["Candidate", "Progress", "Timing", "time_candidates"]

Progress = Callable[[str, float], None]
"""Called with a text and the share done, 0 to 1."""

LEAST_ROUNDS, LEAST_CALLS = 5, 3  # below that an interval over rounds means nothing
SLOW_MS = 50.0  # of calls that long two are enough, and none before them: filling a cache again takes 3 ms
LAUNCHES = 8  # processes behind a candidate's figures; see statistics.ratio
SETTLE_S = 0.005  # pause before a worker's turn, so that the last one's threads have gone to sleep
AGAIN = 2  # more tries of a disturbed turn
MOST_AGAIN = 0.5  # of all planned turns, so that a busy box does not double the time for nothing


def time_candidates(
    candidates: Sequence[Candidate],
    feed: Mapping[str, np.ndarray],
    *,
    rounds: int = 12,
    calls: int = 40,
    seconds: float = 20.0,
    warmup_s: float = 1.0,
    launches: int = LAUNCHES,
    cold: bool = True,
    limit_s: float = 300.0,
    seed: int = 0,
    probes: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> dict[str, Timing]:
    """Time the candidates against each other, while nobody else measures on this machine.

    Args:
        feed: One batch, the same for all.
        calls: Calls a round.
        seconds: Bound on one candidate's timed calls; slow ones make fewer calls, then fewer rounds (all candidates alike).
        warmup_s: Bound on warming up, after each launch.
        launches: Processes of each candidate, one after the other, that share the rounds. 0 = one, and no cold start.
        cold: Whether each shows a cold start, and so starts alone; without, those of all candidates start side by side.
        limit_s: Longest silence of a worker before it counts as hung.
        seed: Of the order within rounds.
        probes: Plugins of ``probes/`` that watch the timed rounds; None = all that watch calls.

    Returns:
        A Timing for each candidate's name; one that crashed, hung or ran another precision than asked holds the ``error``.

    Raises:
        MeasureError: Two candidates have one name.
    """
    if len({candidate.name for candidate in candidates}) < len(candidates):
        raise MeasureError("two candidates have the same name.", fix="give every candidate a name of its own.")
    groups, tell = max(1, min(launches, rounds)), progress or (lambda text, share: None)
    with exclusive.measuring(lambda text: tell(text, 0.0)), tempfile.TemporaryDirectory(prefix="edgemm-") as scratch:
        file = Path(scratch) / "feed.npz"
        np.savez(file, **dict(feed))  # type: ignore[arg-type]  # its stub takes the keyword allow_pickle for an array
        run = _Run(
            candidates,
            file,
            rounds,
            calls,
            seconds,
            limit_s,
            watching(CALLS) if probes is None else list(probes),
            seed,
            tell,
        )
        for number in range(groups):
            with ExitStack() as stack:
                run.launch(stack, number, cold=cold and launches > 0)
                run.warm(warmup_s)
                run.time(number, groups)
                if number == groups - 1:
                    run.describe()
        return {candidate.name: run.timing(candidate) for candidate in candidates}


class _Run:
    """The state of one ``time_candidates``: living workers, and what each has shown so far."""

    def __init__(
        self, candidates: Sequence[Candidate], feed: Path, rounds: int, calls: int, seconds: float, limit_s: float, probes: list[str],
        seed: int, tell: Progress,
    ) -> None:  # fmt: skip
        self._candidates, self._feed, self._rounds, self._calls, self._seconds = candidates, feed, rounds, calls, seconds
        self._limit_s, self._probes, self._order, self._tell = limit_s, probes, random.Random(seed), tell
        self._workers: dict[str, WorkerProcess] = {}
        self._errors: dict[str, EdgemmError] = {}
        self._shown: dict[str, dict[str, Any]] = {
            c.name: {"cold": [], "load": [], "first": [], "launches": [], "turns": [], "samples": {name: [] for name in probes}}
            for c in candidates
        }
        self._call_ms: dict[str, float] = {}
        self._planned = self._done = self._again = 0
        self._clock = 0.0
        self._began = time.perf_counter()

    def launch(self, stack: ExitStack, number: int, *, cold: bool) -> None:
        """Start every candidate that is still in the run: one after the other where cold starts are measured, else all at once."""
        self._workers = {}
        started = []
        for candidate in self._candidates:
            name = candidate.name
            if name in self._errors:
                continue
            worker = stack.enter_context(WorkerProcess(name, times=True))
            worker.send("open", **candidate.opening(self._feed))
            self._workers[name] = worker
            if cold:
                self._opened(name, cold=True)
                self._tell(f"launched {name}", self._share())
            else:
                started.append(name)
        for name in started:
            self._opened(name, cold=False)

    def warm(self, seconds: float) -> None:
        for name in list(self._workers):
            answer = self._ask(name, "warm", seconds=seconds, probes=self._probes)
            if answer:
                self._call_ms.setdefault(name, answer["call_ms"])
                self._shown[name]["stable"] = self._shown[name].get("stable", True) and answer["stable"]

    def time(self, launch: int, launches: int) -> None:
        """This launch's share of the rounds. Slow candidates bound the number of rounds for all, their own calls for themselves."""
        if not self._workers:
            return
        if not self._planned:
            slow = min(int(self._seconds * 1e3 / (self._least(name) * self._call_ms[name])) for name in self._workers)
            self._planned = min(self._rounds, max(LEAST_ROUNDS, slow))
        first, end = (self._planned * edge // launches for edge in (launch, launch + 1))
        for number in range(first, end):
            order = sorted(self._workers)
            self._order.shuffle(order)
            for name in order:
                self._turn(name, number, launch)
            self._done = number + 1
            self._tell(f"round {number + 1} of {self._planned}", self._share())

    def describe(self) -> None:
        for name in list(self._workers):
            answer = self._ask(name, "describe")
            if answer:
                self._shown[name] |= answer

    def timing(self, candidate: Candidate) -> Timing:
        """What the candidate showed, or why there is nothing to show."""
        name, shown = candidate.name, self._shown[candidate.name]
        if name in self._errors:
            return Timing(error=self._errors[name], turns=tuple(shown["turns"]))
        if is_less(shown["precision"], candidate.precision_asked):
            return Timing(error=lied(candidate, shown["precision"]))
        return Timing(
            samples={probe: tuple(samples) for probe, samples in shown["samples"].items()}, launches=tuple(shown["launches"]),
            load_ms=median(shown["load"]), first_ms=median(shown["first"]), cold_start_ms=tuple(shown["cold"]),
            precision_ran=shown["precision"], warm=shown["stable"], turns=tuple(shown["turns"]),
            layers=tuple(LayerRan(**layer) for layer in shown["layers"]),
        )  # fmt: skip

    def _turn(self, name: str, number: int, launch: int) -> None:
        """One candidate's calls of a round; done again, within bounds, where something disturbed them."""
        calls = min(self._calls, max(self._least(name), int(self._seconds * 1e3 / self._planned / self._call_ms[name])))
        before = 0 if self._call_ms[name] > SLOW_MS else 2
        most = MOST_AGAIN * self._planned * len(self._workers)
        for attempt in range(AGAIN + 1):
            time.sleep(SETTLE_S * (1 + 4 * attempt))
            watch = Watch(self._workers[name].pid)
            answer = self._ask(name, "round", calls=calls, before=before)
            if answer is None:
                return
            seen = watch.stop()
            self._clock = max(self._clock, seen.clock or 0.0)
            reasons = tuple(disturbance.reasons(seen, self._clock))
            last = not reasons or attempt == AGAIN or self._again >= most
            self._note(name, answer["samples"], number, launch, seen, reasons, kept=last)
            if last:
                return
            self._again += 1

    def _least(self, name: str) -> int:
        """Calls a round at least."""
        return LEAST_CALLS - 1 if self._call_ms[name] > SLOW_MS else LEAST_CALLS

    def _note(
        self, name: str, samples: Mapping[str, Any], number: int, launch: int, seen: Seen, reasons: tuple[str, ...], *, kept: bool
    ) -> None:
        shown, latency = self._shown[name], samples.get("latency") or [0.0]
        counted: dict[str, Any] = {key: None if value is None else round(value, 4) for key, value in vars(seen).items()}
        turn = TimedTurn(
            **counted, candidate=name, round=number, launch=launch, at_s=round(time.perf_counter() - self._began, 3),
            p50_ms=round(median(latency), 5), kept=kept, reasons=reasons,
        )  # fmt: skip
        shown["turns"].append(turn)
        if kept:
            shown["launches"].append(launch)
            for probe, values in samples.items():
                shown["samples"][probe].append(values)

    def _opened(self, name: str, *, cold: bool) -> None:
        worker, shown = self._workers[name], self._shown[name]
        try:
            answer = worker.receive(limit_s=self._limit_s)
        except EdgemmError as err:
            self._drop(name, err)
            return
        if cold:
            shown["cold"].append((time.perf_counter() - worker.started) * 1e3)
        shown["load"].append(answer["load_ms"])
        shown["first"].append(answer["first_ms"])

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

    def _share(self) -> float:
        return self._done / (self._planned or self._rounds)
