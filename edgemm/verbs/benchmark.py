"""`edgemm benchmark`: measure candidates side by side, or compare two reports."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from edgemm.box.measuring import benchmark as measuring
from edgemm.box.measuring.benchmark_options import ROUNDS, BenchmarkOptions
from edgemm.box.measuring.schedule import LAUNCHES
from edgemm.box.remote.benchmark import RemoteOptions, measure_there
from edgemm.box.remote.fleet import measure_fleet
from edgemm.box.remote.fleet_file import Board
from edgemm.box.remote.fleet_file import load as load_fleet
from edgemm.contracts import fleet as fleets
from edgemm.contracts.card import Card
from edgemm.contracts.fleet import FleetReport
from edgemm.contracts.report import Report, read
from edgemm.errors import MeasureError, RemoteError
from edgemm.pipeline import stages
from edgemm.pipeline.job import start
from edgemm.progress import Progress
from edgemm.report import comparison, fleet_comparison, fleet_page, page
from edgemm.report.comparison import Comparison
from edgemm.report.fleet_comparison import FleetComparison
from edgemm.report.terminal import Ending
from edgemm.store.artifact import require_writable


def benchmark(
    candidates: Sequence[str | Path] = (),
    *,
    data: str | Path | None = None,
    target: str | None = None,
    output: str | Path | None = None,
    pace: str | None = None,
    streams: Sequence[int] | None = None,
    batches: Sequence[int] | None = None,
    stream: str | Path | None = None,
    empty: str | None = None,
    roofline: bool = True,
    rounds: int = ROUNDS,
    calls: int = 40,
    seconds: float = 20.0,
    launches: int = LAUNCHES,
    limit: int | None = None,
    seed: int = 0,
    skip_bad_rows: bool = False,
    remote: str | None = None,
    setup: bool = False,
    fallback: bool = False,
    ssh_config: str | Path | None = None,
    fleet: str | Path | None = None,
    compare: tuple[str | Path, str | Path] | None = None,
    progress: Progress | None = None,
) -> Report | FleetReport | Comparison | FleetComparison:
    """Measure candidates against each other, each in a process of its own, in interleaved rounds.

    A bundle is measured on each of its targets that can run here, beside its float graph forced to f32 and as the runtime runs that
    by itself; an ONNX file on each target that can run here; a model card in torch.

    Args:
        candidates: Bundles, ONNX files, model cards, OpenVINO IR files, TensorRT plans, ``torch-compile:CARD``,
            ``command:WORDS``; the first is what the others are held against.
        data: The dataset: accuracy on its test split, on the target itself. Without it the report says what the samples were.
        target: Measure on this target only.
        output: Folder for report.json and report.html.
        pace: Also measure calls at this pace: ``5hz``, or ``image=10hz,audio=1hz``.
        streams: Also measure the throughput of so many parallel streams.
        batches: Also measure the throughput of so many samples a call; with ``streams`` in every combination.
        stream: Also play this recording (a folder, a clip) through the gates of a bundle, as ``edgemm run --fast`` plays it, and without
            them: skipped calls, both humps of the latency, processor time a decision.
        empty: How many of all moments are empty, such as ``quiet=0.9``: the test split is weighed so where it goes through gates.
        roofline: Tell how near the first candidate's branches come to the box's peaks, and which layers waste time.
        rounds: Timed rounds; candidates take turns in each.
        calls: Timed calls of a candidate in a round.
        seconds: Most seconds of timed calls for one candidate.
        launches: Processes of each candidate that share the rounds, each with a cold start; 0 = one, and no cold start.
        limit: Accuracy on so many first rows of the test split only.
        seed: Of the order within rounds, and of synthetic samples.
        skip_bad_rows: Leave out rows that cannot be read; the report counts them.
        remote: Measure one bundle on another machine, ``ssh://user@host:port``; only numpy and a runtime need to be there.
        setup: With ``remote`` or ``fleet``: first make a virtual environment there with what is missing.
        fallback: With ``remote`` or ``fleet``: where none of the bundle's runtimes is there, measure its graph in ONNX Runtime, and say so.
        ssh_config: With ``remote`` or ``fleet``: ssh's configuration file instead of the user's own.
        fleet: Measure one bundle on every board that this file names, at once (``boards: {porch: ssh://nvidia@porch, here: local}``).
        compare: Measure nothing: hold the second report.json against the first; of fleets, board by board.

    Returns:
        The report. ``report.missed`` holds the budgets of the candidates' recipes that were missed, ``report.details.failures`` the
        candidates of which nothing could be measured; the notes say why. With ``fleet`` a report for each board, or why it has none. With
        ``compare`` a ``Comparison``: what got worse beyond the noise, and ``missed`` holds the regressions.

    Raises:
        EdgemmError: A candidate cannot be opened; candidates with different inputs or labels; nothing at all could be measured.
    """
    if compare is not None:
        return _compared(*map(Path, compare))
    folder = Path(output) if output else None
    if folder and candidates:
        require_writable(folder / "report.json")
    options = BenchmarkOptions(
        target=target, pace=pace, streams=streams, batches=batches, roofline=roofline, rounds=rounds, calls=calls, seconds=seconds,
        launches=launches, limit=limit, seed=seed, skip_bad_rows=skip_bad_rows, stream=None if stream is None else str(stream), empty=empty,
    )  # fmt: skip
    if stream is not None and (remote is not None or fleet is not None):
        raise MeasureError(
            "--stream plays a recording here.",
            why="it is not shipped to another machine.",
            fix="leave out --stream, or run it on that box.",
        )
    config = Path(ssh_config) if ssh_config else None
    if fleet is not None:
        boards = _boards(Path(fleet), remote, setup=setup, fallback=fallback)
        whole = measure_fleet(candidates, boards, options, data=data, config=config, progress=progress)
        if folder:
            fleet_page.write(whole, folder)
        return whole
    if remote is None:
        report = measuring.benchmark(candidates, options, data=data, prepare=partial(_prepare, data), progress=progress)
    else:
        there = RemoteOptions(remote, setup=setup, fallback=fallback, config=config)
        report = measure_there(candidates, there, options, data=data, progress=progress)
    if folder:
        page.write(report, folder)
    return report


def ending(report: Report | FleetReport | Comparison | FleetComparison, *, output: str | None = None, **_: Any) -> Ending:
    """What the command line says at the end."""
    written = (Path(output),) if output else ()
    following = f"open {Path(output) / 'report.html'} in a browser" if output else ""
    is_short = isinstance(report, FleetReport) and len(report.answered) < len(report.boards)
    return Ending(report, written, following, report=report, fell_short=is_short)


def _compared(old: Path, new: Path) -> Comparison | FleetComparison:
    if fleets.is_fleet(old) or fleets.is_fleet(new):
        return fleet_comparison.compare(fleets.read(old), fleets.read(new))
    return comparison.compare(read(old), read(new))


def _boards(fleet: Path, remote: str | None, *, setup: bool, fallback: bool) -> list[Board]:
    if remote is not None:
        raise RemoteError("--remote and --fleet cannot both say where to measure.", fix=f"name {remote} as a board in {fleet}.")
    return load_fleet(fleet, defaults={"setup": setup, "fallback": fallback})


def _prepare(data: str | Path | None, path: Path) -> tuple[Path, Card, list[str]]:
    """The graph that every other command makes of an ONNX file, its card, and what is to be known of it."""
    job = start(path, data)
    return stages.export(job).main, job.card, job.notes
