"""Whole splits through candidates, in processes of their own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgemm.box.measuring.answers import read_files
from edgemm.box.measuring.candidate import Candidate
from edgemm.box.measuring.process import WorkerProcess
from edgemm.contracts.answers import Answers
from edgemm.contracts.card import Card


class Predictor:
    """Runs splits through candidates; those of one target share a process, one after the other, and the rows that it has decoded.

    Starting a process and decoding anew took two thirds of the second that a small candidate needs. A context manager that keeps the
    processes for all that happens inside; outside of it each call has its own.
    """

    def __init__(self) -> None:
        self._workers: dict[str, WorkerProcess] = {}
        self._depth = 0

    def __enter__(self) -> Predictor:
        self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        for target in [] if self._depth else list(self._workers):
            self._workers.pop(target).stop()

    def predict(
        self,
        candidate: Candidate,
        data: str | Path,
        card: Card,
        split: str = "test",
        *,
        limit: int | None = None,
        skip_bad_rows: bool = False,
        limit_s: float = 600.0,
        progress: Callable[[int], None] | None = None,
    ) -> Answers:
        """Run a whole split through a candidate.

        A deployed candidate runs at batch 1, the shape that ships, or as ``Batching`` proves to be the same; the torch original at 64.

        Args:
            limit: First rows only.
            progress: Called with the number of rows done.

        Returns:
            The answers, and the truth of outputs that have labels; memory-mapped, read-only.

        Raises:
            EdgemmError: What the worker raised; MeasureError when it crashed or hung.
        """
        with tempfile.TemporaryDirectory(prefix="edgemm-") as scratch, self.worker(candidate) as worker:
            worker.ask("open", limit_s=limit_s, **candidate.opening(None))
            worker.ask(
                "predict", limit_s=limit_s, progress=progress, data=str(data), card=card.to_dict(),
                card_path=str(card.path) if card.path else None, split=split, batch_size=64 if candidate.target == "torch" else 1,
                limit=limit, out=scratch, skip_bad_rows=skip_bad_rows,
            )  # fmt: skip
            return read_files(Path(scratch))

    @contextmanager
    def worker(self, candidate: Candidate) -> Iterator[WorkerProcess]:
        """The process of a candidate's target; it bears the name of whom it works for. After an error the next one gets a fresh one."""
        with self:
            if candidate.target not in self._workers:
                self._workers[candidate.target] = WorkerProcess(candidate.name)
            worker = self._workers[candidate.target]
            worker.name = candidate.name
            try:
                yield worker
            except BaseException:
                self._workers.pop(candidate.target).stop()
                raise

    def release(self, *, limit_s: float = 60.0) -> None:
        """Close what is open in the processes, which stay, with their rows."""
        for worker in self._workers.values():
            worker.ask("release", limit_s=limit_s)
