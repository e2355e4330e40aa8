"""Several processes that train one model: started from here by torch's own launcher, their words heard here, their error raised here."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from edgemm import errors
from edgemm.errors import EdgemmError, TrainError
from edgemm.progress import Progress
from edgemm.store import cache
from edgemm.store.artifact import write_json
from edgemm.store.machine import usable_cores

WORKER = f"{__package__}.together_worker"  # no name that keys follow: what it runs are the steps, which they hold
LOOK_S = 0.2
LAST_LINES = 3
FAILED = re.compile(r"exitcode: (?P<code>-?\d+)\) local_rank: (?P<rank>\d+)")
"""How torch's launcher tells which process failed first."""
END_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl


def run(do: str, arguments: Mapping[str, Any], processes: int, progress: Progress) -> None:
    """Do something in several processes that know of each other, and wait.

    Args:
        do: What ``together_worker`` is to do.
        arguments: Its arguments, as plain values.

    Raises:
        EdgemmError: What the processes raised, of the same kind.
        TrainError: One of them died.
    """
    with tempfile.TemporaryDirectory(prefix="edgemm-") as scratch, tempfile.TemporaryFile() as said:
        given, told = Path(scratch) / "given.json", Path(scratch) / "told.jsonl"
        write_json(given, {"do": do, "with": dict(arguments)})
        told.touch()
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        process = subprocess.Popen(
            [*launcher, "-m", WORKER, str(given), str(told)], stdin=subprocess.DEVNULL, stdout=said, stderr=said,
            env={**os.environ, **_variables(processes)}, preexec_fn=_end_with_parent,
        )  # fmt: skip
        with told.open(encoding="utf-8") as words:
            follow = _Follower(words, progress)
            try:
                while process.poll() is None:
                    follow()
                    time.sleep(LOOK_S)
            finally:
                if process.poll() is None:  # such as Ctrl-C: the launcher ends its processes
                    process.terminate()
                process.wait()
            follow()
        if process.returncode:
            said.seek(0)
            raise follow.error or _died(said.read().decode(errors="replace"), processes)


def require_processes(processes: int) -> None:
    """Raises TrainError where so many processes cannot be."""
    if processes < 1:
        raise TrainError(f"processes is {processes}.", fix="write at least 1.")
    if processes > usable_cores():
        raise TrainError(
            f"processes is {processes}.", why=f"{usable_cores()} cores may be used here, and each process needs one.", fix="take fewer."
        )


def _variables(processes: int) -> dict[str, str]:
    """Threads for each process, and that the processor computes where nothing else can."""
    own = {} if os.environ.get("OMP_NUM_THREADS") else {"OMP_NUM_THREADS": str(max(1, usable_cores() // processes))}
    return own if cache.accelerators()["devices"] or cache.accelerators()["driver"] else {**own, "ACCELERATE_USE_CPU": "true"}


def _end_with_parent() -> None:
    """A launcher whose command was killed is ended too: the same command, given again, would train beside it."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(END_WITH_PARENT, signal.SIGTERM)


class _Follower:
    """Hears what the processes say, a JSON object a line."""

    def __init__(self, words: IO[str], progress: Progress) -> None:
        self._words, self._progress, self._rest = words, progress, ""
        self.error: EdgemmError | None = None

    def __call__(self) -> None:
        *lines, self._rest = (self._rest + self._words.read()).split("\n")
        for line in lines:
            say: Mapping[str, Callable[..., None]] = {
                "update": self._progress.update, "note": self._progress.note, "error": self._failed,
            }  # fmt: skip
            for name, values in json.loads(line).items():
                say[name](*values)

    def _failed(self, kind: str, what: str, why: str, fix: str) -> None:
        of: Any = getattr(errors, kind, TrainError)
        self.error = self.error or of(what, why=why, fix=fix)


def _died(said: str, processes: int) -> TrainError:
    """The error of processes that ended without a word: which was the first, and how; else the last words of all."""
    first = FAILED.search(said)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    why = " ".join(lines[-LAST_LINES:]) or "they said nothing."
    if first:
        code = int(first["code"])
        why = f"process {first['rank']} ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}; the others were ended then."
    return TrainError(
        f"one of {processes} training processes died.", why=why, fix="run the same command again: it goes on after the last epoch."
    )
