"""One candidate in a process of its own: opens it, and does what the scheduler says, one command at a time.

``python -m edgemm.box.measuring.worker`` reads one JSON object a line on stdin and answers with one JSON object a line on the stdout it was
started with. Whatever else prints to stdout (vendor libraries do) lands on stderr. Arrays travel as files. Between commands the process
is blocked on a read and uses no processor.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from edgemm.box.bundle import parts as splits
from edgemm.box.bundle.parts import Parts
from edgemm.box.measuring.any_program import CommandSession
from edgemm.box.measuring.candidate import COMMAND
from edgemm.box.measuring.layers import steady_layers
from edgemm.box.measuring.load import most, paced, stepper
from edgemm.contracts import plugins
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.libraries import quiet_imports, quiet_warnings
from edgemm.contracts.plain_values import read
from edgemm.contracts.probe import ROWS, Probe, watching, watching_pace
from edgemm.contracts.target import Session
from edgemm.errors import EdgemmError
from edgemm.store.machine import give_back_memory

if TYPE_CHECKING:
    from edgemm.box.measuring.rows import Rows

CHUNK = 5  # calls between two looks at the clock while warming up
STABLE = 0.05  # three chunk medians this near to each other count as warm
LEAST_WARMUP = 15  # calls; below that a median of chunks says nothing
TELL_S = 0.5  # how often progress is told


def main() -> None:
    """Answer commands until ``stop`` or the end of stdin."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = _Worker(lambda value: _say(answers, value))
    with quiet_imports(), quiet_warnings():  # what is left on stderr explains a crash
        _answer(worker, answers)
    answers.flush()
    os._exit(0)  # some runtimes hang or crash while they are torn down; all is measured by now


def _answer(worker: _Worker, answers: TextIO) -> None:
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "stop":
            break
        try:
            answer = getattr(worker, command["do"])(**command["with"])
        except EdgemmError as err:
            answer = {"error": {"kind": type(err).__name__, "what": err.what, "why": err.why, "fix": err.fix}}
        except Exception:  # anything at all: the scheduler reports it, whole
            answer = {"error": {"kind": "", "what": traceback.format_exc(), "why": "", "fix": ""}}
        _say(answers, answer)


class _Worker:
    """The commands. Each returns plain JSON values."""

    def __init__(self, progress: Callable[[Mapping[str, Any]], None]) -> None:
        self._progress = progress
        self._session: Session | None = None
        self._feed: dict[str, np.ndarray] = {}
        self._probes: dict[str, Probe] = {}
        self._step: Callable[[Sequence[str]], Any] | None = None
        self._rows: Rows | None = None

    def open(self, deployment: dict[str, Any], feed: str | None, cpus: list[int]) -> dict[str, Any]:
        """Load the candidate and, with ``feed`` (an npz file), run it once."""
        _pin(cpus)
        if self._session is not None:
            self._session.__exit__(None, None, None)
        started = time.perf_counter()
        self._session = open_session(read(Deployment, deployment), feed)
        load_ms = (time.perf_counter() - started) * 1e3
        if feed is None:
            return {"load_ms": load_ms, "first_ms": 0.0}
        self._feed = _arrays(feed)
        started = time.perf_counter()
        self._session.run(self._feed)
        return {"load_ms": load_ms, "first_ms": (time.perf_counter() - started) * 1e3}

    def warm(self, seconds: float, probes: list[str]) -> dict[str, Any]:
        """Load the probes and run until three chunks of calls agree, or for ``seconds``."""
        self._probes = {name: _probe(name, self._session) for name in probes}
        medians: list[float] = []
        end = time.perf_counter() + seconds
        chunk = max(1, min(CHUNK, int(seconds * 1e3 / self._timed_ms(1)[0])))  # of a slow model one call may be all
        while True:
            medians.append(median(self._timed_ms(chunk)))
            last = medians[-3:]
            stable = len(medians) * chunk >= LEAST_WARMUP and max(last) <= min(last) * (1 + STABLE)
            if stable or time.perf_counter() > end:
                return {"stable": stable, "warmup_calls": len(medians) * chunk, "call_ms": min(last)}

    def round(self, calls: int, before: int = 2) -> dict[str, Any]:
        """One round: every probe's samples of ``calls`` calls, after some ``before``: the caches belong to whoever ran last."""
        self._calls(before, [])
        self._calls(calls, list(self._probes.values()))
        return {"samples": {name: probe.stop() for name, probe in self._probes.items()}}

    def describe(self) -> dict[str, Any]:
        """What ran."""
        assert self._session is not None
        return {"precision": self._session.precision(), "layers": [asdict(layer) for layer in self._session.layers()]}

    def profile(self, deployment: dict[str, Any], feed: str, cpus: list[int]) -> dict[str, Any]:
        """The candidate's layers with the times of a warm session."""
        _pin(cpus)
        whole = read(Deployment, deployment)
        timing = whole.plugin().profile_options() if whole.target != COMMAND else {}
        with open_session(whole, feed, **timing) as session:
            return {"layers": [asdict(layer) for layer in steady_layers(session, _arrays(feed))]}

    def open_parts(self, deployment: dict[str, Any], feed: str, cpus: list[int], parts: str) -> dict[str, Any]:
        """Load a candidate that is in parts, by their ``split.json``."""
        _pin(cpus)
        self._feed = _arrays(feed)
        opened = Parts(splits.read(Path(parts).parent), partial(open_part, read(Deployment, deployment)))
        self._step = stepper(opened, self._feed)
        return {}

    def pace(self, rates_hz: dict[str, float], steps: int) -> dict[str, Any]:
        """Steps at the fastest of the rates; of a candidate in parts, each branch at its own."""
        session, feed = self._session, self._feed
        probes = {name: _probe(name, session) for name in watching_pace()}
        if self._step is not None:
            return paced(self._step, rates_hz, steps, probes)
        assert session is not None
        return paced(lambda new: session.run(feed), rates_hz, steps, probes)

    def throughput(
        self, deployment: dict[str, Any], feed: str, cpus: list[int], batch: int, streams: int, seconds: float
    ) -> dict[str, Any]:
        """Samples a second of several sessions, each with its share of the cores, on the one sample repeated to a batch."""
        _pin(cpus)
        whole = read(Deployment, deployment)
        if whole.target != COMMAND and streams > 1:
            plugin = whole.plugin()
            if "threads" in plugin.choices()[0]:
                share = max(1, len(cpus) // streams)
                whole = whole.running({**plugin.without_unsafe(whole.runtime_options), "threads": share})
        sessions = [open_session(whole, feed) for _ in range(streams)]
        batched = {name: np.ascontiguousarray(np.repeat(array, batch, axis=0)) for name, array in _arrays(feed).items()}
        return {"per_s": batch * most(sessions, batched, seconds)}

    def predict(
        self, data: str, card: dict[str, Any], card_path: str | None, split: str, batch_size: int, limit: int | None, skip_bad_rows: bool,
        out: str,
    ) -> dict[str, Any]:  # fmt: skip
        """Answers and truths for a whole split, streamed by the probes that watch rows to one .npy file per output in folder ``out``."""
        from edgemm.box.measuring.batching import Batching, in_sets  # this command and the next one alone need these
        from edgemm.contracts import card_file as cards
        from edgemm.data.checking import require_agreement

        assert self._session is not None
        kept = self._kept_rows()
        dataset = kept.dataset(data, card, card_path, skip_bad_rows)
        count = dataset.count(split)
        session = Batching(self._session.run, rows=min(count, limit or count), precision=self._session.precision())
        probes = {name: plugins.find(Probe, name)(folder=Path(out)) for name in watching(ROWS)}  # type: ignore[call-arg]
        for probe in probes.values():
            probe.start()
        rows, last_progress_s = 0, time.monotonic()
        for batches in in_sets(kept.batches(dataset, split, batch_size, limit=limit)):
            for batch, answers in zip(batches, session.answers([batch.inputs for batch in batches]), strict=True):
                if not rows:
                    require_agreement(cards.parse(card), data, answers, batch)
                for probe in probes.values():
                    probe.observe(answers, batch.truth)
                rows += len(batch.rows)
            if time.monotonic() - last_progress_s > TELL_S:
                last_progress_s = time.monotonic()
                self._progress({"progress": rows})
        return {"rows": rows, "samples": {name: probe.stop() for name, probe in probes.items()}}

    def subsets(self, deployment: dict[str, Any], feed: None, cpus: list[int], **rows: Any) -> dict[str, Any]:
        """Answers with some inputs missing; see ``subsets.run_subsets``."""
        from edgemm.box.measuring.subsets import run_subsets  # this command alone needs it

        _pin(cpus)
        try:
            return run_subsets(self._progress, partial(open_part, read(Deployment, deployment)), self._kept_rows(), **rows)
        finally:
            give_back_memory()

    def part_times(self, deployment: dict[str, Any], feed: str, cpus: list[int], folder: str) -> dict[str, Any]:
        """Milliseconds of each part; see ``part_times.run_parts``."""
        from edgemm.box.measuring.part_times import run_parts  # this command alone needs it

        _pin(cpus)
        return run_parts(partial(open_part, read(Deployment, deployment)), folder, _arrays(feed))

    def gated(self, cpus: list[int], stream: str | None = None, **asked: Any) -> dict[str, Any]:
        """A bundle through its gates and without them: rows, or a recording; see ``gated_rows`` and ``gated_stream``."""
        _pin(cpus)
        if stream is not None:
            from edgemm.box.measuring.gated_stream import run_gated_stream  # this command alone needs it, and what serves

            return run_gated_stream(stream=stream, **asked)
        from edgemm.box.measuring.gated_rows import run_gated_rows  # as above

        return run_gated_rows(self._progress, self._kept_rows(), **asked)

    def release(self) -> dict[str, Any]:
        """Close the session; rows stay."""
        if self._session is not None:
            self._session.__exit__(None, None, None)
            self._session = None
        give_back_memory()
        return {}

    def _kept_rows(self) -> Rows:
        from edgemm.box.measuring.rows import Rows  # opening and timing need no dataset

        self._rows = self._rows or Rows()
        return self._rows

    def _timed_ms(self, count: int) -> list[float]:
        assert self._session is not None
        run, feed = self._session.run, self._feed
        ends = [time.perf_counter_ns()]
        gc.disable()
        try:
            for _ in range(count):
                run(feed)
                ends.append(time.perf_counter_ns())
        finally:
            gc.enable()
        return [(end - begin) / 1e6 for begin, end in itertools.pairwise(ends)]

    def _calls(self, count: int, probes: list[Probe]) -> None:
        assert self._session is not None
        run, feed, observers = self._session.run, self._feed, [probe.observe for probe in probes]
        gc.disable()
        try:
            for probe in probes:
                probe.start()
            for _ in range(count):
                answers = run(feed)
                for observe in observers:
                    observe(answers, None)
        finally:
            gc.enable()


def _pin(cpus: list[int]) -> None:
    if cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)


def _arrays(path: str) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


def open_session(deployment: Deployment, feed: str | None, **more: Any) -> Session:
    """A session of a target's plugin, or of a command, whose files go beside ``feed``: they are gone with it, however this process ends."""
    if deployment.target == COMMAND:
        return CommandSession(str(deployment.model), Path(feed).parent if feed else None)
    return deployment.open(**more)


def open_part(whole: Deployment, path: Path) -> Session:
    """A part of a graph, without options that were proved for the whole graph alone."""
    plugin = whole.plugin()
    return plugin.open(path, **plugin.without_unsafe(whole.runtime_options))


def _probe(name: str, session: Session | None) -> Probe:
    """A probe, told which process to look at where that is not this one."""
    kind: Any = plugins.find(Probe, name)
    pid = getattr(session, "pid", None)
    probe: Probe = kind(pid=pid) if pid is not None and "pid" in plugins.options("probes", name) else kind()
    return probe


def _say(answers: TextIO, value: Mapping[str, Any]) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
