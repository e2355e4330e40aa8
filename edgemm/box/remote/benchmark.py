"""`edgemm benchmark --remote`: ship a bundle and a runner to another machine, let it measure there, bring the report back, clean up.

The job goes on there when the connection drops, and a command that was stopped here finds it again: its folder there is named by what
it does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from edgemm.box.bundle.opened import Bundle, open_bundle
from edgemm.box.bundle.packing import copy
from edgemm.box.measuring.benchmark_options import BenchmarkOptions
from edgemm.box.remote import DATA, packing
from edgemm.box.remote.readiness import ready
from edgemm.box.remote.sent import Job, numbered
from edgemm.box.remote.ssh import Remote, parse
from edgemm.contracts.report import Report, read
from edgemm.contracts.report_parts import RemoteRun
from edgemm.data.dataset import open_dataset
from edgemm.errors import RemoteError
from edgemm.progress import Progress
from edgemm.store import growing_npz
from edgemm.store.artifact import sha256_file

BASE = '${EDGEMM_REMOTE:-"$HOME/.cache/edgemm-remote"}'
"""Where jobs lie there; a line of shell."""


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
    digests = sorted(path.name if path.suffix == ".pyz" else sha256_file(path) for path in files.values())
    with numbered([str(there.address), digests, options.to_dict()]) as number, tempfile.TemporaryDirectory(prefix="edgemm-") as scratch:
        job = Job(there, base, files, [options.to_dict(), number], progress)
        if not job.is_under_way():
            with progress.stage("ship"):
                job.ship()
            with progress.stage("probe"):
                python, fallback = ready(there, base, job.runner, targets, progress, setup=remote.setup, fallback=remote.fallback)
            bundle = next(name for name in files if name.endswith(".edgemm"))
            job.start(python, {"bundle": bundle, "fallback": fallback, "options": options.to_dict()})
        with progress.stage("measure there"):
            job.wait()
        report = read(job.fetch(Path(scratch)))
        job.remove()
    return replace(report, details=replace(report.details, remote=RemoteRun(there.losses)))


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
    batches = open_dataset(data, bundle.card, skip_bad_rows=options.skip_bad_rows).batches("test", 64, limit=options.limit)
    growing_npz.write(path, ({**batch.inputs, **batch.truth} for batch in batches))
    return path
