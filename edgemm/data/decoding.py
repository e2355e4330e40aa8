"""From a row to a sample, and a stream of rows to a stream of samples, decoded ahead by threads."""

from __future__ import annotations

import itertools
import os
import re
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgemm.contracts.card import Card, Input
from edgemm.contracts.modality import Modality
from edgemm.contracts.number_cells import is_npy, numbers
from edgemm.contracts.task import Cells, Task
from edgemm.data import labels
from edgemm.data.manifest import ManifestRow
from edgemm.errors import DataError

AHEAD_BYTES = 64 << 20  # decoded samples that may wait for their turn
AHEAD_ROWS = 256
CHUNK_ROWS = 16  # rows a thread takes at once: handing over a single small picture costs more than decoding it
BETWEEN_STEPS = "|"


def as_named_in(card: Card, there: Collection[str]) -> Card:
    """The card for data of these columns: what it maps to a column that is absent is read from one of its own name, where there is one.

    A manifest is written by people and calls things as they do; an npz or a function is often keyed by the model's own names. A name
    that the card maps elsewhere is never taken for another's column.
    """
    kept = {
        column: name
        for column, name in card.columns.items()
        if not isinstance(name, str) or column in there or name not in there or card.columns.get(name, name) != name
    }
    named = card if len(kept) == len(card.columns) else card.replace(columns=kept)
    return _whatever_the_case(named, there)


def _whatever_the_case(card: Card, there: Collection[str]) -> Card:
    """A column that is there but for its case, and for blanks or _ in it, is taken, where only one is so and nobody else's."""
    alike: dict[str, list[str]] = {}
    for column in there:
        alike.setdefault(_plain(column), []).append(column)
    columns, taken = dict(card.columns), {card.column(name) for name in (*card.inputs, *card.outputs)}
    for name in (*card.inputs, *card.outputs):
        wanted = card.column(name)
        others = alike.get(_plain(wanted), [])
        if wanted not in there and len(others) == 1 and others[0] not in taken:
            columns.pop(wanted, None)
            columns[others[0]] = name
    return card if columns == card.columns else card.replace(columns=columns)


def _plain(column: str) -> str:
    return re.sub(r"[\s_-]+", "_", str(column).strip().lower())


class DecodedRow(NamedTuple):
    """A decoded row."""

    number: int
    inputs: dict[str, np.ndarray]
    truth: dict[str, np.ndarray]
    present: dict[str, bool]


class Decoder:
    """Turns rows into samples for one card."""

    def __init__(
        self, card: Card, modalities: Mapping[str, Modality], tasks: Mapping[str, Task], *, name: str, folder: Path, is_ready: bool = False
    ) -> None:
        """
        Args:
            tasks: Of the outputs whose truth is wanted.
            is_ready: The truth in the rows was decoded already.
        """
        self.inputs = {key: (card.column(key), spec, modalities[key]) for key, spec in card.inputs.items()}
        self.outputs = {key: (card.column(key), task) for key, task in tasks.items()}
        self.name, self.folder, self.is_ready = name, folder, is_ready

    def decode(self, row: ManifestRow) -> DecodedRow:
        """
        Raises:
            DataError: Naming file, row and column.
        """
        if row.trouble:
            raise DataError(f"{self.name}, row {row.number}: the row cannot be read.", why=row.trouble, fix="mend or remove the row.")
        sample = DecodedRow(row.number, {}, {}, {})
        column = ""
        try:
            for key, (column, spec, part) in self.inputs.items():
                present, sample.inputs[key] = self._input(row.cells.get(column), spec, part)
                if spec.optional:
                    sample.present[key] = present
            beside = Cells(self.folder, {key: row.cells.get(named) for key, (named, _, _) in self.inputs.items()} if self.outputs else {})
            for key, (column, task) in self.outputs.items():
                cell = row.cells.get(column)
                sample.truth[key] = np.asarray(cell) if self.is_ready else task.truth(cell, beside)
        except DataError as err:
            raise DataError(f"{self.name}, row {row.number}, column '{column}': {err.what}", why=err.why, fix=err.fix) from err
        return sample

    def _input(self, cell: Any, spec: Input, part: Modality) -> tuple[bool, np.ndarray]:
        if labels.is_empty(cell):
            if spec.optional:
                return False, _repeated(part.absent(), spec.steps)
            initial = part.initial()
            if initial is not None:
                return True, _repeated(initial, spec.steps)
            if not part.reads_empty(cell):
                raise DataError("the cell is empty.", fix=f"fill it, remove the row, or set inputs.{spec.name}.optional: true.")
        if not spec.steps:
            return True, part.decode(cell, self.folder)
        return True, np.stack([part.decode(step, self.folder) for step in self._steps(cell, spec)])

    def _steps(self, cell: Any, spec: Input) -> list[Any]:
        if is_npy(cell) and BETWEEN_STEPS not in cell:
            cell = numbers(cell, self.folder)
        steps = cell.split(BETWEEN_STEPS) if isinstance(cell, str) else list(cell)
        if len(steps) != spec.steps:
            raise DataError(
                f"it holds {len(steps)} step{'s' * (len(steps) != 1)}, the card says {spec.steps}.",
                fix=f"separate the steps by '{BETWEEN_STEPS}', or give a list or an array with {spec.steps} of them.",
            )
        return steps


def _repeated(sample: np.ndarray, steps: int | None) -> np.ndarray:
    return np.stack([sample] * steps) if steps else sample


def decode_ahead(
    decoder: Decoder, rows: Iterator[ManifestRow], *, row_bytes: int, most: int | None = None
) -> Iterator[DecodedRow | tuple[int, DataError]]:
    """Samples in the order of ``rows``; for a bad row its number and the error. Threads work ahead by a bounded amount.

    Args:
        row_bytes: Size of a decoded row.
        most: About how many samples will be asked for; None = all.
    """
    ahead_rows = int(np.clip(AHEAD_BYTES // max(row_bytes, 1), 1, AHEAD_ROWS if most is None else max(1, min(most, AHEAD_ROWS))))
    chunk_rows = min(CHUNK_ROWS, max(1, ahead_rows // 4))
    waiting: deque[Future[list[DecodedRow | tuple[int, DataError]]]] = deque()
    pool = ThreadPoolExecutor(workers(), thread_name_prefix="edgemm-decode")
    try:
        while True:
            while len(waiting) * chunk_rows < ahead_rows and (chunk := list(itertools.islice(rows, chunk_rows))):
                waiting.append(pool.submit(_decode_chunk, decoder, chunk))
            if not waiting:
                return
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _decode_chunk(decoder: Decoder, rows: list[ManifestRow]) -> list[DecodedRow | tuple[int, DataError]]:
    done: list[DecodedRow | tuple[int, DataError]] = []
    for row in rows:
        try:
            done.append(decoder.decode(row))
        except DataError as err:
            done.append((row.number, err))
    return done


def workers() -> int:
    """Threads that decode: more than four wait for Python's lock rather than for pictures."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, cores)
