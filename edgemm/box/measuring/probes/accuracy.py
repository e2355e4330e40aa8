"""Answers against the truth, on the target itself; memory does not grow with the dataset."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.contracts import task as tasks
from edgemm.contracts.card import Output
from edgemm.contracts.probe import Probe
from edgemm.contracts.report import Measurement
from edgemm.contracts.task import Score
from edgemm.errors import MeasureError


@dataclass(frozen=True)
class Answers:
    """What ``summarise`` scores.

    Attributes:
        predictions, truth: Output name -> (rows, ...).
        before: The original model's answers to the same rows, where they are known.
    """

    outputs: Mapping[str, Output]
    predictions: Mapping[str, np.ndarray]
    truth: Mapping[str, np.ndarray]
    before: Mapping[str, np.ndarray] = field(default_factory=dict)


class Accuracy(Probe):
    """Writes ``prediction.<output>.npy`` and ``truth.<output>.npy`` while the rows stream by.

    Args:
        folder: Where to; must exist. Needed in the worker alone.
    """

    def __init__(self, *, folder: Path | None = None) -> None:
        self._folder = folder
        self._writers: dict[str, NpyWriter] = {}

    def start(self) -> None:
        self._writers = {}

    def observe(self, answers: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray] | None) -> None:
        for kind, arrays in (("prediction", answers), ("truth", truth or {})):
            for name, array in arrays.items():
                self._writer(f"{kind}.{name}").append(np.asarray(array))

    def stop(self) -> list[str]:
        """Names of the files written."""
        for writer in self._writers.values():
            writer.close()
        return sorted(self._writers)

    def summarise(self, samples: Sequence[Any]) -> list[Measurement]:
        """Each labelled output's metric and, where the original's answers are known, what was lost. ``samples``: one ``Answers``."""
        (answers,) = samples
        found = []
        for name, output in answers.outputs.items():
            task, truth = tasks.of(output), answers.truth.get(name)
            if not task.is_scored or (task.has_truth and truth is None):
                continue
            after = task.measure(answers.predictions, truth)
            found.append(_measurement(after.score(), name))
            if all(read in answers.before for read in task.reads):
                found.append(_measurement(task.measure(answers.before, truth).drop(after), name))
        return found

    def _writer(self, key: str) -> NpyWriter:
        if key not in self._writers:
            assert self._folder is not None
            self._writers[key] = NpyWriter(self._folder / f"{key}.npy")
        return self._writers[key]


class NpyWriter:
    """A .npy file that grows along axis 0: numpy's header leaves room for the final row count.

    Raises:
        MeasureError: A row's shape or dtype differs from the first one's.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        self._rows = 0
        self._like: tuple[np.dtype, tuple[int, ...]] | None = None

    def append(self, array: np.ndarray) -> None:
        """Add ``array`` (rows, ...).

        Raises:
            MeasureError: Its type or its row's shape is not that of the rows before.
        """
        if self._like is None:
            self._like = (array.dtype, array.shape[1:])
            self._file.write(self._header())
        if (array.dtype, array.shape[1:]) != self._like:
            raise MeasureError(
                f"'{self._path.stem}' changes its shape from row to row.",
                why=f"first {self._like[1]} {self._like[0]}, then {array.shape[1:]} {array.dtype}.",
                fix="outputs that are compared need one shape; fix the free axis when exporting.",
            )
        self._file.write(np.ascontiguousarray(array).tobytes())
        self._rows += len(array)

    def close(self) -> None:
        """Write the final row count and close."""
        if self._like is not None:
            self._file.seek(0)
            self._file.write(self._header())
        self._file.close()

    def _header(self) -> bytes:
        assert self._like is not None
        dtype, shape = self._like
        header = io.BytesIO()
        facts = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (self._rows, *shape)}
        np.lib.format.write_array_header_1_0(header, facts)
        return header.getvalue()


def _measurement(score: Score, output: str) -> Measurement:
    found = Measurement(score.name, score.value, score.unit, score.better, output=output, n=score.n, per_point=score.per_point)
    return replace(found, low=score.low, high=score.high)
