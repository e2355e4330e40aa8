"""`edgemm benchmark --remote`: ship a bundle and a runner to another machine, let it measure there, bring the report back, clean up.

The job goes on there when the connection drops, and a command that was stopped here finds it again: its folder there is named by what
it does.
"""

from __future__ import annotations

import json
import shlex
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgemm import errors
from edgemm.box.bundle.opened import Bundle, open_bundle
from edgemm.box.bundle.packing import copy
from edgemm.box.devices.advice import APT_TENSORRT
from edgemm.box.measuring.benchmark_options import BenchmarkOptions
from edgemm.box.remote import DATA, FALLBACK, JOB, LOG, PID, REPORT, STATUS, packing
from edgemm.box.remote.ssh import Remote, SshAddress, failed, parse
from edgemm.contracts import plugins
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
OLDEST_PYTHON = (3, 10)
SETUP_S = 1800.0


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
    bundle, progress = _only_bundle(candidates), progress or Progress()
    fallback = remote.fallback
    with (
        tempfile.TemporaryDirectory(prefix="edgemm-") as scratch,
        Remote(parse(remote.url), config=remote.config, note=progress.note) as there,
    ):
        with progress.stage("connect"):
            base = there.check(f"mkdir -p {BASE} && cd {BASE} && pwd", "the folder for jobs there cannot be made.").strip()
        with progress.stage("pack"):
            files = _shipped(bundle, str(candidates[0]), data, options, Path(scratch))
        job = _Job(there, base, files, options.to_dict(), progress)
        if not job.is_under_way():
            with progress.stage("ship"):
                job.ship()
            with progress.stage("probe"):
                python, fallback = _ready(there, base, job.runner, bundle, remote.setup, fallback, progress)
            job.start(python, fallback)
        with progress.stage("measure there"):
            job.wait()
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


def _only_bundle(candidates: Sequence[str | Path]) -> Bundle:
    if len(candidates) != 1:
        raise RemoteError("--remote measures one bundle.", why=f"{len(candidates)} candidates were given.", fix="name one bundle.")
    return open_bundle(candidates[0])


def _shipped(bundle: Bundle, bundle_path: str, data: str | Path | None, options: BenchmarkOptions, scratch: Path) -> dict[str, Path]:
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


def _ready(there: Remote, base: str, runner: str, bundle: Bundle, setup: bool, fallback: bool, progress: Progress) -> tuple[str, bool]:
    """The Python to use there, and whether ONNX Runtime has to stand in for the bundle's own runtimes.

    Raises:
        RemoteError: Something is missing there; says how to get it.
    """
    own = f"{base}/venv/bin/python"
    python = own if there.run(["test", "-x", own]).code == 0 else "python3"
    _require_python(there, python)
    if setup:
        python = _set_up(there, base, runner, bundle, fallback, progress)
    facts = _probe(there, python, runner, bundle)
    if facts["numpy"] is None:
        raise RemoteError(
            "numpy is missing there.", why=f"{python} cannot import it.", fix="sudo apt-get install -y python3-numpy there, or add --setup."
        )
    reasons = {name: facts["targets"].get(name, "this edgemm does not know it.") for name in bundle.targets()}
    if any(reason == "" for reason in reasons.values()):
        return python, False
    if fallback and facts["targets"].get(FALLBACK) == "":
        progress.note(f"none of {', '.join(reasons)} can run on {there.address.host}: ONNX Runtime measures in their place.")
        return python, True
    raise _missing(there.address, reasons, facts, fallback)


def _require_python(there: Remote, python: str) -> None:
    done = there.run([python, "-c", "import sys; print(*sys.version_info[:2])"])
    words = done.out.split()
    if done.code or len(words) != 2 or tuple(map(int, words)) < OLDEST_PYTHON:
        why = f"there is Python {'.'.join(words)}." if len(words) == 2 else f"there is no {python}."
        raise RemoteError("edgemm needs Python 3.10 or later there.", why=why, fix="on a Jetson that is JetPack 6 or later.")


def _probe(there: Remote, python: str, runner: str, bundle: Bundle) -> dict[str, Any]:
    output = there.check([python, runner, "probe", *dict.fromkeys([*bundle.targets(), FALLBACK])], "the runner does not start there.")
    facts: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return facts


def _set_up(there: Remote, base: str, runner: str, bundle: Bundle, fallback: bool, progress: Progress) -> str:
    """A virtual environment that sees the system's packages (TensorRT comes from apt), with what is missing installed."""
    own = f"{base}/venv/bin/python"
    apt = "sudo apt-get install -y python3-venv there."
    making = f"test -x {shlex.quote(own)} || python3 -m venv --system-site-packages {shlex.quote(base + '/venv')}"
    progress.update("virtual environment")
    there.check(making, "no virtual environment could be made there.", fix=apt, limit_s=SETUP_S)
    facts = _probe(there, own, runner, bundle)
    packages = [] if facts["numpy"] else ["numpy"]
    names = [*bundle.targets(), *([FALLBACK] if fallback else [])]
    packages += [package for name in dict.fromkeys(names) if facts["targets"].get(name) != "" for package in _packages(name)]
    if packages:
        progress.update(f"installing {', '.join(packages)}")
        installing = [own, "-m", "pip", "install", "--quiet", *packages]
        there.check(
            installing, f"{', '.join(packages)} could not be installed there.", fix="see whether that box has a way out.", limit_s=SETUP_S
        )
    return own


def _packages(target: str) -> Sequence[str]:
    """What pip brings for a target; nothing for TensorRT, which comes from apt, and for one that nobody here knows."""
    if target not in plugins.names("targets"):
        return ()
    return plugins.packages("targets", target) if plugins.is_own("targets", target) else plugins.requirements(target)


def _missing(address: SshAddress, reasons: Mapping[str, str], facts: Mapping[str, Any], fallback: bool) -> RemoteError:
    why = "; ".join(f"{name}: {reason.rstrip('.')}" for name, reason in reasons.items())
    fixes = []
    if "tensorrt" in reasons:
        fixes.append(f"TensorRT comes with JetPack, there: {APT_TENSORRT}")
    if any(map(_packages, reasons)) or fallback:
        fixes.append("--setup installs what pip brings")
    if not fallback:
        fixes.append("--fallback measures the same graph in ONNX Runtime")
    return RemoteError(
        f"none of the bundle's targets can run on {address.host} ({facts['machine']}).", why=f"{why}.", fix="; or ".join(fixes) + "."
    )


def _error(status: Mapping[str, str]) -> EdgemmError:
    """The box's error, of its own kind."""
    kind = getattr(errors, status["kind"], None) if status["kind"] else None
    if kind is None:
        fix = "its disk is full: make room there." if status["why"] else "this is a fault in edgemm; please report it."
        return RemoteError("the benchmark failed there.", why=status["what"].strip(), fix=fix)
    error: EdgemmError = kind(status["what"], why=status["why"], fix=status["fix"])
    return error
