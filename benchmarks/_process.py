"""Run a command and learn what it cost: wall and processor seconds, and the largest resident memory of it and its children."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

EDGEMM = (sys.executable, "-m", "edgemm")


@dataclass(frozen=True)
class Cost:
    """``peak_rss_mib`` is that of the largest single process so far among this process's descendants."""

    seconds: float
    processor_seconds: float
    peak_rss_mib: float
    output: str


def run(command: Sequence[str | Path], *, environment: Mapping[str, str] | None = None, allowed: Sequence[int] = (0,)) -> Cost:
    """Run to the end; raises CalledProcessError with its output when the exit code is not among ``allowed``."""
    began, before = time.perf_counter(), _processor_seconds()
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=environment, check=False)
    seconds = time.perf_counter() - began
    if done.returncode not in allowed:
        sys.stderr.write(done.stdout + done.stderr)
        raise subprocess.CalledProcessError(done.returncode, command)
    return Cost(seconds, _processor_seconds() - before, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, done.stdout)


def _processor_seconds() -> float:
    """Of all descendants that ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
