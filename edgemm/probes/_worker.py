"""One candidate in a process of its own: opens it, and does what the scheduler says, one command at a time.

``python -m edgemm.probes._worker`` reads one JSON object a line on stdin and answers with one JSON object a line on the stdout it was
started with. Whatever else prints to stdout (vendor libraries do) lands on stderr. Arrays travel as files. Between commands the process
is blocked on a read and uses no processor.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from edgemm import plugins
from edgemm.errors import EdgemmError
from edgemm.targets._protocol import Session, Target

CHUNK = 5  # calls between two looks at the clock while warming up
STABLE = 0.05  # three chunk medians this near to each other count as warm
LEAST_WARMUP = 15  # calls; below that a median of chunks says nothing


def main() -> None:
    """Answer commands until ``stop`` or the end of stdin."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = _Worker(lambda value: _say(answers, value))
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
    answers.flush()
    os._exit(0)  # some runtimes hang or crash while they are torn down; all is measured by now


class _Worker:
    """The commands. Each returns plain JSON values."""

    def __init__(self, progress: Callable[[Mapping[str, Any]], None]) -> None:
        self._progress = progress
        self._session: Session | None = None
        self._feed: dict[str, np.ndarray] = {}

    def open(self, target: str, artifact: str, options: dict[str, Any], feed: str | None, cpus: list[int]) -> dict[str, Any]:
        """Load the candidate and, with ``feed`` (an npz file), run it once."""
        if cpus and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cpus)
        runtime = plugins.find(Target, target)()
        started = time.perf_counter()
        self._session = runtime.open(Path(artifact), **options)
        load_ms = (time.perf_counter() - started) * 1e3
        if feed is None:
            return {"load_ms": load_ms, "first_ms": 0.0}
        with np.load(feed) as arrays:
            self._feed = {name: arrays[name] for name in arrays.files}
        started = time.perf_counter()
        self._session.run(self._feed)
        return {"load_ms": load_ms, "first_ms": (time.perf_counter() - started) * 1e3}

    def warm(self, seconds: float) -> dict[str, Any]:
        """Run until three chunks of calls agree, or for ``seconds``."""
        medians: list[float] = []
        end = time.perf_counter() + seconds
        while True:
            samples = self._time(CHUNK)
            medians.append(float(np.median(samples)))
            last = medians[-3:]
            stable = len(medians) * CHUNK >= LEAST_WARMUP and max(last) <= min(last) * (1 + STABLE)
            if stable or time.perf_counter() > end:
                return {"stable": bool(stable), "calls": len(medians) * CHUNK, "call_ms": min(last)}

    def time(self, calls: int) -> dict[str, Any]:
        """Milliseconds of each of ``calls`` calls."""
        self._time(2)  # the caches belong to whoever ran before
        return {"samples_ms": self._time(calls)}

    def describe(self) -> dict[str, Any]:
        """What ran."""
        assert self._session is not None
        return {"precision": self._session.precision(), "layers": [asdict(layer) for layer in self._session.layers()]}

    def memory(self) -> dict[str, Any]:
        """Highest resident memory of this process so far, MiB."""
        return {"peak_rss_mib": peak_rss_mib()}

    def predict(self, out: str, **job: Any) -> dict[str, Any]:
        """Answers and truths for a whole split, streamed to one .npy file per output in folder ``out``."""
        from edgemm.probes._predictions import stream  # the dataset reader is needed by this command alone

        assert self._session is not None
        return stream(self._session, Path(out), progress=self._progress, **job)

    def _time(self, calls: int) -> list[float]:
        assert self._session is not None
        run, feed, clock = self._session.run, self._feed, time.perf_counter_ns
        samples = []
        gc.disable()
        try:
            for _ in range(calls):
                started = clock()
                run(feed)
                samples.append((clock() - started) / 1e6)
        finally:
            gc.enable()
        return samples


def peak_rss_mib() -> float:
    """VmHWM of this process; unlike getrusage it starts anew with the program."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    import resource  # absent outside Unix

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _say(answers: TextIO, value: Mapping[str, Any]) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
