"""`edgemm benchmark --fleet`: one bundle on many boards at once, each over a connection of its own. A board that fails costs its column."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from edgemm.box.bundle.opened import Bundle
from edgemm.box.measuring.benchmark import benchmark
from edgemm.box.measuring.benchmark_options import BenchmarkOptions
from edgemm.box.remote.benchmark import RemoteOptions, connected, measure_files, only_bundle, shipped
from edgemm.box.remote.fleet_file import LOCAL, Board
from edgemm.contracts.fleet import BoardResult, FleetReport, Problem
from edgemm.contracts.report import Report
from edgemm.errors import EdgemmError, RemoteError
from edgemm.progress import Progress

AT_ONCE = 16
"""Boards that are measured at once: what is done here is little, but each has processes of ssh."""


def measure_fleet(
    candidates: Sequence[str | Path],
    boards: Sequence[Board],
    options: BenchmarkOptions,
    *,
    data: str | Path | None = None,
    config: Path | None = None,
    progress: Progress | None = None,
) -> FleetReport:
    """Benchmark one bundle on each board.

    Args:
        boards: Where, and what may be done there. What is shipped is packed once for all.
        config: ssh's configuration file instead of the user's own.

    Raises:
        EdgemmError: The bundle or the data cannot be opened.
        RemoteError: No board measured anything; says what each said.
    """
    bundle, progress = only_bundle(candidates, "--fleet"), progress or Progress()
    name = str(candidates[0])
    with tempfile.TemporaryDirectory(prefix="edgemm-") as scratch:
        with progress.stage("pack"):
            files = shipped(bundle, name, data, options, Path(scratch)) if any(board.url != LOCAL for board in boards) else {}
        told = _Told(progress, boards)

        def one(board: Board) -> Report:
            mine, follow = replace(options, target=board.target or options.target), told.of(board)
            if board.url == LOCAL:
                return benchmark([name], mine, data=data, progress=follow)
            remote = RemoteOptions(board.url, setup=board.setup, fallback=board.fallback, config=config)
            with connected(remote, follow) as (there, base):
                return measure_files(there, base, files, _targets(bundle, mine), remote, mine, follow)

        with progress.stage(f"measure on {len(boards)} boards"):
            results = _each(boards, one, told)
    report = FleetReport(name, results)
    if not report.answered:
        words = "\n    ".join(f"{result.name}: {result.problem}" for result in results)
        fixes = dict.fromkeys(result.problem.fix for result in results if result.problem and result.problem.fix)
        raise RemoteError(f"none of the {len(boards)} boards measured anything.", why=words, fix=" ".join(fixes))
    return report


def _targets(bundle: Bundle, options: BenchmarkOptions) -> list[str]:
    return [options.target] if options.target in bundle.targets() else bundle.targets()


def _each(boards: Sequence[Board], measure: Callable[[Board], Report], told: _Told) -> list[BoardResult]:
    """What came of each board, in their order."""

    def result(board: Board) -> BoardResult:
        began = time.monotonic()
        try:
            report, problem = measure(board), None
        except EdgemmError as err:
            report, problem = None, Problem(err.what, err.why, err.fix)
        seconds = round(time.monotonic() - began, 1)
        if not told.is_stopped:
            told.end(board, problem, seconds)
        return BoardResult(board.name, board.url, report, problem, seconds)

    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        try:
            return list(pool.map(result, boards))
        except BaseException:  # such as Ctrl-C: what was begun there goes on, and is found again by the same command
            told.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class _Told:
    """Where each board stands, in the one line of the stage."""

    def __init__(self, progress: Progress, boards: Sequence[Board]) -> None:
        self._progress, self._lock = progress, threading.Lock()
        self._states = {board.name: "" for board in boards}
        self._shares = dict.fromkeys(self._states, 0.0)
        self.is_stopped = False

    def stop(self) -> None:
        """From now on, whoever says where it stands is ended."""
        self.is_stopped = True

    def of(self, board: Board) -> Progress:
        return _OfBoard(self, board.name)

    def end(self, board: Board, problem: Problem | None, seconds: float) -> None:
        self.note(board.name, f"failed after {seconds:.0f} s: {problem}" if problem else f"done in {seconds:.0f} s")
        self.say(board.name, "failed" if problem else "done", 1.0)

    def say(self, name: str, text: str, share: float | None) -> None:
        if self.is_stopped:
            raise RemoteError(f"{name} is no longer waited for.")
        with self._lock:
            self._states[name] = text
            self._shares[name] = self._shares[name] if share is None else share
            words = "; ".join(f"{name}: {state}" for name, state in self._states.items() if state)
            self._progress.update(words, sum(self._shares.values()) / len(self._shares))

    def note(self, name: str, text: str) -> None:
        with self._lock:
            self._progress.note(f"{name}: {text}")


class _OfBoard(Progress):
    """What one board's measuring says."""

    def __init__(self, told: _Told, name: str) -> None:
        super().__init__()
        self._told, self._name = told, name

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._told.say(self._name, name, None)
        yield

    def update(self, text: str, fraction: float | None = None) -> None:
        self._told.say(self._name, text, fraction)

    def note(self, text: str) -> None:
        self._told.note(self._name, text)
