"""`edgemm benchmark --remote`: ship a bundle and a runner to another machine, let it measure there, bring the report back, clean up.

The job goes on there when the connection drops, and a command that was stopped here finds it again: its folder there is named by what
it does.
"""

from __future__ import annotations

import json
import shlex
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgemm import errors
from edgemm.box.bundle.opened import Bundle, open_bundle
from edgemm.box.bundle.packing import copy
from edgemm.box.measuring.benchmark_options import BenchmarkOptions
from edgemm.box.remote import DATA, JOB, LOG, PID, REPORT, STATUS, packing
from edgemm.box.remote.readiness import ready
from edgemm.box.remote.ssh import Remote, failed, parse
from edgemm.contracts.report import Report, read
from edgemm.contracts.report_parts import RemoteRun
from edgemm.data.dataset import open_dataset
from edgemm.data.sources import MARK
from edgemm.errors import EdgemmError, RemoteError
from edgemm.progress import Progress
from edgemm.store.artifact import sha256_file, sha256_of, show_size

BASE = '${EDGEMM_REMOTE:-"$HOME/.cache/edgemm-remote"}'
"""Where jobs lie there; a line of shell."""
SPARE = 64 << 20  # bytes of room beyond what is shipped: reports, engines, logs
TIMES = 3  # what is shipped is unpacked there, and TensorRT's engines are as large again
FULL = 1 << 20  # bytes of room below which a disk counts as full
POLL_S = 1.0
SILENT = 3  # looks at a job that neither runs nor has ended before it counts as dead


@dataclass(frozen=True)
class RemoteOptions:
    """Where to measure, and what may be done there.

    Attributes:
        url: ``ssh://user@host:port``.
        setup: Make a virtual environment there and install the runtimes that are missing; it stays.
        fallback: Where none of the bundle's runtimes is there, measure its graph in ONNX Runtime.
        config: ssh's configuration file instead of the user's own.
    """

    url: str
    setup: bool = False
    fallback: bool = False
    config: Path | None = None


def measure_there(
    candidates: Sequence[str | Path],
    remote: RemoteOptions,
    options: BenchmarkOptions,
    *,
    data: str | Path | None = None,
    progress: Progress | None = None,
) -> Report:
    """Benchmark one bundle on another machine.

    Raises:
        EdgemmError: It cannot be reached, lacks something, or the benchmark failed there (the same error as here).
    """
    bundle, progress = only_bundle(candidates), progress or Progress()
    with tempfile.TemporaryDirectory(prefix="edgemm-") as scratch, connected(remote, progress) as (there, base):
        with progress.stage("pack"):
            files = shipped(bundle, str(candidates[0]), data, options, Path(scratch))
        return measure_files(there, base, files, bundle.targets(), remote, options, progress)


@contextmanager
def connected(remote: RemoteOptions, progress: Progress) -> Iterator[tuple[Remote, str]]:
    """A connection, and the folder for jobs there.

    Raises:
        RemoteError: It cannot be reached, or written to.
    """
    with Remote(parse(remote.url), config=remote.config, note=progress.note) as there:
        with progress.stage("connect"):
            base = there.check(f"mkdir -p {BASE} && cd {BASE} && pwd", "the folder for jobs there cannot be made.").strip()
        yield there, base


def measure_files(
    there: Remote, base: str, files: Mapping[str, Path], targets: Sequence[str], remote: RemoteOptions, options: BenchmarkOptions,
    progress: Progress,
) -> Report:  # fmt: skip
    """Benchmark on another machine what ``shipped`` packed.

    Args:
        there, base: Of ``connected``.
        files: Name in the job's folder -> file here.
        targets: The bundle's.

    Raises:
        EdgemmError: As ``measure_there``.
    """
    job = _Job(there, base, files, options.to_dict(), progress)
    if not job.is_under_way():
        with progress.stage("ship"):
            job.ship()
        with progress.stage("probe"):
            python, fallback = ready(there, base, job.runner, targets, progress, setup=remote.setup, fallback=remote.fallback)
        job.start(python, fallback)
    with progress.stage("measure there"):
        job.wait()
    with tempfile.TemporaryDirectory(prefix="edgemm-") as scratch:
        report = job.fetch(Path(scratch))
    job.remove()
    return replace(report, details=replace(report.details, remote=RemoteRun(there.losses)))


class _Job:
    """A folder there, named by what the job does; and what is known of it."""

    def __init__(self, there: Remote, base: str, files: Mapping[str, Path], options: dict[str, Any], progress: Progress) -> None:
        self._there, self._files, self._options, self._progress = there, files, options, progress
        facts = {name: path.name if name == self.runner_name else sha256_file(path) for name, path in files.items()}
        self.folder = f"{base}/job-{sha256_of([facts, options])[:16]}"
        self.runner = f"{self.folder}/{self.runner_name}"

    @property
    def runner_name(self) -> str:
        return next(name for name in self._files if name.endswith(".pyz"))

    @property
    def bundle_name(self) -> str:
        return next(name for name in self._files if name.endswith(".edgemm"))

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
        self._there.check(
            ["mkdir", "-p", f"{self.folder}/{DATA}" if len(self._files) > 2 else self.folder], "the folder of the job cannot be made there."
        )
        needed = TIMES * sum(path.stat().st_size for path in self._files.values()) + SPARE
        free = self._there.free_bytes(self.folder)
        if free is not None and free < needed:
            raise RemoteError(
                f"{self._there.address} has {show_size(free)} of room, and {show_size(needed)} are needed.",
                why=f"'{self.folder}' lies on a disk that is nearly full.",
                fix="make room there, or set EDGEMM_REMOTE there to a folder on a larger disk.",
            )
        if len(self._files) > 2:
            self._there.check(["touch", f"{self.folder}/{DATA}/{MARK}"], "the folder of the data cannot be written there.")
        for number, (name, path) in enumerate(self._files.items()):
            self._progress.update(name, number / len(self._files))
            self._there.put(path, f"{self.folder}/{name}")

    def start(self, python: str, fallback: bool) -> None:
        """Start it so that it outlives the connection."""
        job = json.dumps({"bundle": self.bundle_name, "fallback": fallback, "options": self._options})
        away = f"EDGEMM_CACHE=$PWD/cache nohup {shlex.quote(python)} {self.runner_name} run . > {LOG} 2>&1 < /dev/null & echo $! > {PID};"
        line = f"cd {shlex.quote(self.folder)} && rm -f {STATUS} {PID} && printf %s {shlex.quote(job)} > {JOB} && {{ {away} }}"
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

    def fetch(self, scratch: Path) -> Report:
        self._there.get(f"{self.folder}/{REPORT}", scratch / REPORT)
        return read(scratch / REPORT)

    def remove(self) -> None:
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
            self._progress.update(f"{status['stage']}: {status['text']}", status["fraction"])
            return "running" if first == "alive" else "gone"
        return str(status["state"])


def only_bundle(candidates: Sequence[str | Path], option: str = "--remote") -> Bundle:
    """The one bundle that is to be measured elsewhere.

    Raises:
        EdgemmError: There are several, or it is none.
    """
    if len(candidates) != 1:
        raise RemoteError(f"{option} measures one bundle.", why=f"{len(candidates)} candidates were given.", fix="name one bundle.")
    return open_bundle(candidates[0])


def shipped(bundle: Bundle, bundle_path: str, data: str | Path | None, options: BenchmarkOptions, scratch: Path) -> dict[str, Path]:
    """Name in the job's folder -> file here: runner, bundle and, decoded, the data."""
    runner, name = packing.pack(scratch), Path(bundle_path).resolve().name.removesuffix(".edgemm") or "bundle"
    files = {runner.name: runner, f"{name}.edgemm": copy(bundle.folder, scratch / f"{name}.edgemm")}
    if data is not None:
        files[f"{DATA}/test.npz"] = _decoded(bundle, data, options, scratch / "test.npz")
    return files


def _decoded(bundle: Bundle, data: str | Path, options: BenchmarkOptions, path: Path) -> Path:
    """The test split as the graph takes it: reading pictures and sounds needs packages that a box may lack."""
    parts: dict[str, list[np.ndarray]] = {}
    for batch in open_dataset(data, bundle.card, skip_bad_rows=options.skip_bad_rows).batches("test", 64, limit=options.limit):
        for name, array in {**batch.inputs, **batch.truth}.items():
            parts.setdefault(name, []).append(array)
    np.savez(path, **{name: np.concatenate(arrays) for name, arrays in parts.items()})  # type: ignore[arg-type]  # as in schedule
    return path


def _error(status: Mapping[str, str]) -> EdgemmError:
    """The box's error, of its own kind."""
    kind = getattr(errors, status["kind"], None) if status["kind"] else None
    if kind is None:
        fix = "its disk is full: make room there." if status["why"] else "this is a fault in edgemm; please report it."
        return RemoteError("the benchmark failed there.", why=status["what"].strip(), fix=fix)
    error: EdgemmError = kind(status["what"], why=status["why"], fix=status["fix"])
    return error
