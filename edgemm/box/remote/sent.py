"""A job on another machine, seen from here: shipped, started so that it outlives the connection, followed, fetched, removed."""

from __future__ import annotations

import fcntl
import json
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgemm import errors
from edgemm.box.remote import DATA, JOB, LOG, PID, REPORT, STATUS
from edgemm.box.remote.ssh import Remote, failed
from edgemm.data.sources import MARK
from edgemm.errors import EdgemmError, RemoteError
from edgemm.progress import Progress
from edgemm.store.artifact import sha256_file, sha256_of, show_size
from edgemm.store.cache import root

SPARE = 64 << 20  # bytes of room beyond what is shipped: reports, engines, logs
TIMES = 3  # what is shipped is unpacked there, and TensorRT's engines are as large again
FULL = 1 << 20  # bytes of room below which a disk counts as full
POLL_S = 1.0
FOLLOWED = ".followed"
"""Folder of the cache with a lock for each job that a command here follows."""
SILENT = 3  # looks at a job that neither runs nor has ended before it counts as dead


@contextmanager
def numbered(facts: Any) -> Iterator[int]:
    """How many other commands of this user follow a job of these facts right now: another of the same needs a folder of its own there.

    A command that was killed counts no longer, so that the same command finds its job again.
    """
    folder = root() / FOLLOWED
    with ExitStack() as stack:
        number = 0
        with suppress(OSError):  # a cache that cannot be written to, or has no locks, tells nobody
            folder.mkdir(parents=True, exist_ok=True)
            while True:
                path = folder / f"{sha256_of(facts)[:16]}-{number}"
                file = stack.enter_context(path.open("a"))
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    number += 1
        yield number


class Job:
    """A folder there, named by what the job does; and what is known of it.

    Args:
        base: Where jobs lie there.
        files: Name in the job's folder -> file here; the runner among them.
        facts: What the job does, beside its files, as plain values.
    """

    def __init__(self, there: Remote, base: str, files: Mapping[str, Path], facts: Any, progress: Progress) -> None:
        self._there, self._files, self._progress = there, files, progress
        self._noted = 0
        digests = {name: path.name if name == self.runner_name else sha256_file(path) for name, path in files.items()}
        self.folder = f"{base}/job-{sha256_of([digests, facts])[:16]}"
        self.runner = f"{self.folder}/{self.runner_name}"

    @property
    def runner_name(self) -> str:
        """The runner among the files."""
        return next(name for name in self._files if name.endswith(".pyz"))

    def is_under_way(self) -> bool:
        """Whether an earlier command started this very job, and it runs or is done. One that failed is forgotten: it is done anew."""
        try:
            under_way = self._state() in ("running", "done")
        except EdgemmError:
            return False
        if under_way:
            self._progress.note(f"an earlier command started this on {self._there.address.host}: its result is taken.")
        return under_way

    def ship(self) -> None:
        """Copy what is not there yet.

        Raises:
            RemoteError: Too little room there.
        """
        folders = sorted({str(Path(self.folder, name).parent) for name in self._files})
        self._there.check(["mkdir", "-p", *folders], "the folder of the job cannot be made there.")
        needed = TIMES * sum(path.stat().st_size for path in self._files.values()) + SPARE
        free = self._there.free_bytes(self.folder)
        if free is not None and free < needed:
            raise RemoteError(
                f"{self._there.address} has {show_size(free)} of room, and {show_size(needed)} are needed.",
                why=f"'{self.folder}' lies on a disk that is nearly full.",
                fix="make room there, or set EDGEMM_REMOTE there to a folder on a larger disk.",
            )
        if any(name.startswith(f"{DATA}/") for name in self._files):
            self._there.check(["touch", f"{self.folder}/{DATA}/{MARK}"], "the folder of the data cannot be written there.")
        for number, (name, path) in enumerate(self._files.items()):
            self._progress.update(name, number / len(self._files))
            self._there.put(path, f"{self.folder}/{name}")

    def start(self, python: str, job: Mapping[str, Any]) -> None:
        """Start it so that it outlives the connection; ``job`` is what ``edgemm.box.remote.job`` reads."""
        words = json.dumps(job)
        away = f"EDGEMM_CACHE=$PWD/cache nohup {shlex.quote(python)} {self.runner_name} run . > {LOG} 2>&1 < /dev/null & echo $! > {PID};"
        line = f"cd {shlex.quote(self.folder)} && rm -f {STATUS} {PID} && printf %s {shlex.quote(words)} > {JOB} && {{ {away} }}"
        self._there.check(line, "the runner could not be started there.")

    def wait(self) -> None:
        """Until it is done, telling its progress.

        Raises:
            EdgemmError: What it failed with there.
        """
        silent = 0
        while True:
            state = self._state()
            if state == "done":
                return
            silent = 0 if state == "running" else silent + 1
            if silent > SILENT:
                raise self._dead()
            time.sleep(POLL_S)

    def _dead(self) -> RemoteError:
        """Its last words; on a full disk not even those can be written, and what was copied is removed."""
        tail, free = self._there.run(["tail", "-n", "5", f"{self.folder}/{LOG}"]), self._there.free_bytes(self.folder)
        if free is not None and free < FULL:
            tail = replace(tail, err=f"No space left on device: {show_size(free)} are free.")
            self.remove()
        return failed("the benchmark ended there without a result.", tail)

    def fetch(self, scratch: Path) -> Path:
        """What it wrote, as a file in ``scratch``."""
        self._there.get(f"{self.folder}/{REPORT}", scratch / REPORT)
        return scratch / REPORT

    def remove(self) -> None:
        """Leave nothing of it there."""
        self._there.run(["rm", "-rf", self.folder])

    def _state(self) -> str:
        """running, done, or gone.

        Raises:
            EdgemmError: It failed there; its folder is removed.
        """
        folder = shlex.quote(self.folder)
        # after a restart the number may be another program's; the runner goes on as edgemm.box.remote once it has unpacked itself
        ours = f"grep -aqsE 'runner|edgemm.box.remote' /proc/$(cat {folder}/{PID} 2>/dev/null)/cmdline"
        alive = f"if {ours}; then echo alive; else echo gone; fi"
        output = self._there.run(f"{alive}; cat {folder}/{STATUS}").out
        first, _, words = output.partition("\n")
        try:
            status = json.loads(words)
        except ValueError:
            return "running" if first == "alive" else "gone"
        if status["state"] == "failed":
            self.remove()
            raise _error(status)
        if status["state"] == "running":
            for note in status.get("notes", [])[self._noted :]:
                self._progress.note(note)
                self._noted += 1
            self._progress.update(f"{status['stage']}: {status['text']}", status["fraction"])
            return "running" if first == "alive" else "gone"
        return str(status["state"])


def _error(status: Mapping[str, str]) -> EdgemmError:
    """The box's error, of its own kind."""
    kind = getattr(errors, status["kind"], None) if status["kind"] else None
    if kind is None:
        fix = "its disk is full: make room there." if status["why"] else "this is a fault in edgemm; please report it."
        return RemoteError("the benchmark failed there.", why=status["what"].strip(), fix=fix)
    error: EdgemmError = kind(status["what"], why=status["why"], fix=status["fix"])
    return error
