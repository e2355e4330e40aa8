"""A machine over ssh as the one that graphs are timed on: each is shipped, timed there while nobody else measures, and removed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from edgemm.box.measuring.candidate import Candidate
from edgemm.box.measuring.timed import Timed
from edgemm.box.remote import FEED, FILES, packing
from edgemm.box.remote.benchmark import RemoteOptions, connected
from edgemm.box.remote.readiness import probe, ready
from edgemm.box.remote.sent import Job, numbered
from edgemm.contracts.plain_values import plain, read
from edgemm.contracts.target import describe
from edgemm.errors import EdgemmError, MeasureError
from edgemm.progress import Progress
from edgemm.store.artifact import sha256_file


class RemoteDevice:
    """Times graphs on another machine. A context manager that connects, and finds out what is there.

    Args:
        remote: Where, and what may be done there; nothing stands in for a runtime.
        target: That graphs are timed on.

    Attributes:
        facts: What the machine is, for keys of what was measured there.
    """

    def __init__(self, remote: RemoteOptions, target: str, progress: Progress) -> None:
        self._remote, self._target, self._progress = remote, target, progress
        self._stack = ExitStack()
        self.facts: Mapping[str, Any] = {}

    def __enter__(self) -> RemoteDevice:
        """Connect.

        Raises:
            RemoteError: It cannot be reached, or lacks something.
        """
        with ExitStack() as stack:
            self._there, self._base = stack.enter_context(connected(self._remote, self._progress))
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgemm-")))
            with self._progress.stage("probe"):
                self._runner = packing.pack(folder)
                place = f"{self._base}/{self._runner.name}"
                self._there.put(self._runner, place)
                self._python, _ = ready(self._there, self._base, place, [self._target], self._progress, setup=self._remote.setup)
                self.facts = probe(self._there, self._python, place, [self._target])["here"]
                self._there.run(["rm", "-rf", place, f"{place}.unpacked"])  # each job brings its own
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def timed(self, candidates: Sequence[Candidate], feed: Mapping[str, np.ndarray], **how: Any) -> tuple[Timed, dict[str, EdgemmError]]:
        """What the candidates show there, and the errors of those that show nothing.

        Args:
            how: As ``schedule.time_candidates`` takes it.

        Raises:
            RemoteError: The connection is lost for good, or the job ended without a result.
        """
        with tempfile.TemporaryDirectory(prefix="edgemm-") as scratch:
            sample = Path(scratch) / FEED
            np.savez(sample, **dict(feed))  # type: ignore[arg-type]  # its stub takes the keyword allow_pickle for an array
            files, moved = {self._runner.name: self._runner, FEED: sample}, []
            for candidate in candidates:
                names = _files(candidate.model)
                folder = f"{FILES}/{sha256_file(candidate.model)[:16]}"
                files |= {f"{folder}/{path.relative_to(candidate.model.parent)}": path for path in names}
                place = Path(folder) / candidate.model.name
                moved.append(replace(candidate, deployment=candidate.deployment.holding(place)))
            job = {"candidates": [plain(candidate) for candidate in moved], "how": how}
            return self._run(files, job, Path(scratch))

    def _run(self, files: Mapping[str, Path], job: Mapping[str, Any], scratch: Path) -> tuple[Timed, dict[str, EdgemmError]]:
        with numbered([str(self._there.address), job]) as number:
            sent = Job(self._there, self._base, files, [job, number], self._progress)
            if not sent.is_under_way():
                sent.ship()
                sent.start(self._python, job)
            sent.wait()
            found = json.loads(sent.fetch(scratch).read_text(encoding="utf-8"))
            sent.remove()
        errors: dict[str, EdgemmError] = {
            name: MeasureError(words["what"], why=words["why"], fix=words["fix"]) for name, words in found["errors"].items()
        }
        return read(Timed, found["timed"]), errors


def _files(model: Path) -> list[Path]:
    """What a target needs to open a model: its file with those beside it that it names, or that have its name."""
    face = describe(model)
    if face is not None:
        return [model, *(model.parent / name for name in sorted(face.external))]
    return sorted(path for path in model.parent.glob(f"{model.stem}.*") if path.is_file())
