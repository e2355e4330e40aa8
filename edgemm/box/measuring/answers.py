"""A model's answers to a split: written while the rows stream by, read back, and scored against the truth."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from urllib.parse import unquote

import numpy as np

from edgemm.contracts import task as tasks
from edgemm.contracts.answers import LABEL, Answers, Arrays
from edgemm.contracts.card import Output
from edgemm.contracts.report import Measurement
from edgemm.contracts.task import Score
from edgemm.errors import MeasureError

PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_.-~")
NOTHING: Arrays = MappingProxyType({})


class AnswerFiles:
    """Answers as one .npy file an output, named as ``Answers.arrays`` names it; memory does not grow with the dataset.

    Args:
        folder: Where to; must exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, NpyWriter] = {}

    def append(self, predictions: Arrays, truth: Arrays | None) -> None:
        """Add a batch, (rows, ...) each."""
        for name, array in Answers(predictions, truth or {}).arrays().items():
            if name not in self._files:
                self._files[name] = NpyWriter(self._folder / file_of(name))
            self._files[name].append(np.asarray(array))

    def close(self) -> list[str]:
        """Finish the files, and return their names."""
        for file in self._files.values():
            file.close()
        return sorted(self._files)


def file_of(name: str) -> str:
    """The file of one array; a name may hold a slash, and differ from another in case alone."""
    return "".join(letter if letter in PLAIN else f"%{byte:02x}" for byte in name.encode() for letter in (chr(byte),)) + ".npy"


def read_files(folder: Path) -> Answers:
    """What ``AnswerFiles`` wrote, memory-mapped and read-only: the mapping outlives the file's name."""
    return Answers.of_arrays({unquote(path.stem): np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))})


def score(outputs: Mapping[str, Output], answers: Answers, before: Arrays = NOTHING) -> list[Measurement]:
    """Each answered output's metric, where its truth is known, and what was lost, where the original's answers are.

    Args:
        before: Output -> the original model's answers to the same rows.

    Returns:
        Measurements about no subject yet.

    Raises:
        MeasureError: Shapes that do not belong together, or answers that are not finite.
    """
    measured = []
    for name, output in outputs.items():
        task, truth = tasks.of(output), answers.truth.get(name)
        if not task.is_scored or (task.has_truth and truth is None):
            continue
        after = task.measure(answers.predictions, truth)
        measured.append(_measurement(after.score(), name))
        if all(read in before for read in task.reads):
            measured.append(_measurement(task.measure(before, truth).drop(after), name))
    return measured


def _measurement(score: Score, output: str) -> Measurement:
    plain = Measurement(score.name, score.value, score.unit, score.better, output=output, n=score.n, per_point=score.per_point)
    return replace(plain, low=score.low, high=score.high)


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
                f"'{unquote(self._path.stem).removeprefix(LABEL)}' changes its shape from row to row.",
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
