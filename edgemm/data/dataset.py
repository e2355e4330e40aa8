"""The dataset: rows of a manifest, npz files or a Python function, decoded into what the graph takes, as a stream of batches."""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from collections.abc import Generator, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.contracts import task as tasks
from edgemm.contracts.card import Card, Output
from edgemm.contracts.dataset import Batch, Dataset
from edgemm.contracts.modality import Modality, existing, modalities
from edgemm.contracts.task import Task
from edgemm.data import labels
from edgemm.data import samples as arrays
from edgemm.data.decoding import DecodedRow, Decoder, as_named_in, decode_ahead
from edgemm.data.manifest import SPLITS, ManifestRow, RowSource
from edgemm.data.sources import is_ready, open_source, taken_as_it_is
from edgemm.errors import DataError, nearest
from edgemm.store import cache
from edgemm.store.artifact import sha256_file

CALIBRATION_BYTES = 64 << 20
"""Decoded calibration samples that are kept: 300 pictures of 224 x 224 are 45 MB."""
SETTLED_NS = 2 * 10**9  # a file written to within the clock tick of its time would look unchanged: what is as new is not remembered
FILES_REMEMBERED = 4096  # names of files whose facts were just hashed, so that a shared picture is not asked for again at once


def open_dataset(data: str | Path, card: Card, *, skip_bad_rows: bool = False, labelled: bool = True) -> TableDataset:
    """Open the data for a card.

    Args:
        data: A folder with manifest.csv, .jsonl or .parquet, or with <split>.npz; such a file itself; ``module:callable``; ``coco:FILES``,
            ``yolo:FILE`` or ``voc:FOLDER``.
        skip_bad_rows: Leave out rows that cannot be read, and list them in ``bad_rows``, instead of raising.
        labelled: Whether the rows have to bring what is true, and batches have it.

    Raises:
        DataError: Nothing there, duplicate or missing columns, unknown splits.
    """
    bad: dict[int, str] = {}
    ready = is_ready(data)
    card, left_out = taken_as_it_is(card) if ready else card, bad if skip_bad_rows else None
    source = open_source(data, card, bad=left_out, row_bytes=_row_bytes(card))
    return TableDataset(source, card, bad=left_out, labelled=labelled, is_ready=ready)


def synthetic(card: Card, *, samples: int = 64, seed: int = 0) -> TableDataset:
    """Seeded samples for a model that comes without data; every split yields the same ones, and there is no truth."""

    def rows(_split: str) -> Iterator[dict[str, Any]]:
        rng = np.random.default_rng(seed)
        for _ in range(samples):
            yield {card.column(name): _synthetic_cell(part, card.inputs[name].steps, rng) for name, part in modalities(card).items()}

    name = f"{samples} synthetic samples of seed {seed}"
    return TableDataset(arrays.Function(rows, name, card.folder, name, _row_bytes(card)), card, bad=None, labelled=False)


def find_labels(data: str | Path | TableDataset, card: Card) -> Card:
    """The card with the missing ``labels`` of its outputs filled in from the train split (sorted; as numbers when all are).

    Raises:
        DataError: No labels there, or values that look like measurements.
    """
    missing = {name: task for name, task in tasks.tasks(card).items() if task.lacks_labels}
    if not missing:
        return card
    source = data.source if isinstance(data, TableDataset) else open_dataset(data, card).source
    label_sets: dict[str, set[str]] = {name: set() for name in missing}
    reading = as_named_in(card, source.columns)
    trouble = ""
    for row in itertools.chain(source.rows("train"), source.rows("val") if source.is_val_held_out else ()):
        trouble = trouble or (row.trouble and f"row {row.number} cannot be read: {row.trouble}")
        for name, task in missing.items() if not row.trouble else ():
            if len(label_sets[name]) <= labels.MOST_LABELS:
                label_sets[name].update(task.labels_in(row.cells.get(reading.column(name))))
    filled = {
        name: card.outputs[name].with_options(labels=labels.sorted_labels(words, name, source.name, why=trouble))
        for name, words in label_sets.items()
    }
    return card.replace(outputs={**card.outputs, **filled})


def present_samples(dataset: Dataset, name: str) -> Iterator[np.ndarray]:
    """The train split's samples of one input in batches (N, ...), without those that are missing."""
    for batch in dataset.only(name).batches("train", 256):
        values = batch.inputs[name]
        yield values[batch.present[name]] if name in batch.present else values


class TableDataset(Dataset):
    """Rows and how a card reads them. Nothing is decoded before a batch is asked for; each call to ``batches`` reads anew."""

    def __init__(self, source: RowSource, card: Card, *, bad: dict[int, str] | None, labelled: bool = True, is_ready: bool = False) -> None:
        """
        Args:
            bad: Row number -> what is wrong, filled as bad rows are left out; None = a bad row is an error.
            labelled: Whether batches have truth.
            is_ready: The truth in the rows was decoded already.
        """
        card = as_named_in(card, source.columns)
        self.source, self.card, self._bad, self._is_ready = source, card, bad, is_ready
        self._parts = modalities(card)
        self._tasks = {name: task for name, task in tasks.tasks(card).items() if labelled and task.has_truth}
        self._decoder = Decoder(card, self._parts, self._tasks, name=source.name, folder=source.folder, is_ready=is_ready)
        self._one_a_call = any(part.batch_axis() is None and part.initial() is None for part in self._parts.values())
        self._calibrated: tuple[tuple[str, int, int], list[Batch]] | None = None
        self._check_columns()

    @property
    def name(self) -> str:
        """What errors call it: the manifest, the file or the function."""
        return self.source.name

    @property
    def is_fixed(self) -> bool:
        """Whether a row is the same sample in every pass; a function that is called anew may make another of it."""
        return not isinstance(self.source, arrays.Function)

    @property
    def bad_rows(self) -> list[str]:
        """With ``skip_bad_rows``: what was left out so far, in words, in the order of the rows."""
        return [self._bad[number] for number in sorted(self._bad)] if self._bad else []

    @property
    def leaves_out(self) -> bool:
        """Whether rows that cannot be read are left out instead of being an error."""
        return self._bad is not None

    @property
    def parts(self) -> Mapping[str, Modality]:
        """Input -> its modality."""
        return self._parts

    @property
    def labelled(self) -> Mapping[str, Output]:
        """Outputs that a column tells the truth of."""
        return {name: self.card.outputs[name] for name in self._tasks}

    def cells(self, split: str, name: str) -> Iterator[Any]:
        """What stands in the column of an input or output, undecoded and without empty cells: the texts for a vocabulary."""
        self.require_rows(split)
        column = self.card.column(name)
        return (row.cells[column] for row in self.source.rows(split) if not row.trouble and not labels.is_empty(row.cells.get(column)))

    def with_source(self, source: RowSource) -> TableDataset:
        """The same card over other rows of the same data."""
        return TableDataset(source, self.card, bad=self._bad, is_ready=self._is_ready)

    def only(self, *inputs: str) -> TableDataset:
        """The same rows with some inputs and no truth, so that nothing else is decoded."""
        card = self.card.replace(inputs={name: self.card.inputs[name] for name in inputs})
        return TableDataset(self.source, card, bad=self._bad, labelled=False)

    def splits(self) -> list[str]:
        return [split for split in SPLITS if self.source.has(split)]

    def count(self, split: str) -> int:
        """Rows in a split; 0 where there is no such split."""
        return self.source.count(split)

    def require_rows(self, split: str) -> None:
        """Raises DataError where there is no such split, or no row in it."""
        if split not in SPLITS:
            raise DataError(f"there is no split '{split}'.", fix=nearest(split, SPLITS))
        if not self.source.has(split):
            there = ", ".join(f"{name} {self.count(name)}" for name in self.splits()) or "none"
            why = self.source.absent.get(split) or f"rows: {there}."
            raise DataError(f"{self.source.name}: split '{split}' has no rows.", why=why, fix=f"add rows with split '{split}'.")

    def fingerprint(self) -> dict[str, Any]:
        """Plain values that change when the data does, and with nothing else: hash of the manifest, and of the files it names.

        The files are read once, and again when the name, size or time of one changes.
        """
        facts, newest_ns = hashlib.sha256(), 0
        for split, file in self._named_files():
            status = _status(file, self.source.folder)
            facts.update(f"{split} {file} {status and (status.st_size, status.st_mtime_ns, status.st_ino)}\n".encode())
            newest_ns = max(newest_ns, status.st_mtime_ns if status else 0)
        known_by = ["dataset", str(self.source.folder.resolve()), facts.hexdigest()]
        is_settled = time.time_ns() - newest_ns > SETTLED_NS
        return {"manifest": self.source.digest(), "files": cache.remembered(known_by, self._content) if is_settled else self._content()}

    def _content(self) -> str:
        """Hash of the files that the rows name."""
        listing = hashlib.sha256()
        for split, file in self._named_files():
            try:
                listing.update(f"{split} {file} {sha256_file(existing(file, self.source.folder))}\n".encode())
            except (DataError, OSError):
                listing.update(f"{split} {file} missing\n".encode())
        return listing.hexdigest()

    @cached_property
    def _naming_columns(self) -> list[tuple[str, Modality | Task]]:
        """Columns whose cells may name files, and what reads them."""
        parts: list[tuple[str, Modality | Task]] = [*self._parts.items(), *self._tasks.items()]
        columns = [(self.card.column(name), part) for name, part in parts]
        return [(column, part) for column, part in columns if self.source.may_name(column, part.file_ends())]

    def _named_files(self) -> Iterator[tuple[str, str]]:
        """Split and name of every file that the rows name, in their order."""
        seen = dict[str, None]()
        columns = self._naming_columns
        for split in SPLITS if columns else ():
            for row in self.source.naming(split):
                for file in (file for column, part in columns for file in _files(row.cells.get(column), part)):
                    if file not in seen:
                        yield split, file
                        seen[file] = None
                        if len(seen) > FILES_REMEMBERED:
                            del seen[next(iter(seen))]

    def batches(self, split: str, batch_size: int, *, shuffle: int | None = None, limit: int | None = None) -> Iterator[Batch]:
        """Stream a split.

        Args:
            batch_size: Samples in a batch; the last one may hold fewer. A graph without a batch axis gets one sample a batch.
            shuffle: Seed of the order; None = the manifest's order.
            limit: At most so many samples.

        Raises:
            DataError: The split has no rows; a row cannot be read (file, row and column are named).
        """
        self.require_rows(split)
        rng = None if shuffle is None else np.random.default_rng(shuffle)
        return self._batched(self.source.rows(split, rng=rng), batch_size, split, limit=limit)

    def calibration(self, samples: int, *, seed: int = 0) -> Iterator[Batch]:
        """The samples to calibrate on, one a batch: from calib, else train; stratified by the first output of one label.

        Deterministic in data and ``seed``, in random order. Uses all rows when there are fewer.

        Raises:
            DataError: Fewer than 2 samples are asked for, or there.
        """
        split = "calib" if self.source.has("calib") else "train"
        why = "value ranges are measured over samples; a single one says nothing about their spread."
        if samples < 2:
            fix = "set calibration_samples to 2 or more; 300 is usual."
            raise DataError(f"calibration is to use {samples} sample{'s' * (samples != 1)}, and needs at least 2.", why=why, fix=fix)
        self.require_rows(split)
        if self.count(split) < 2:
            fix = f"add rows to '{split}'; 300 are usual."
            raise DataError(f"{self.source.name}: split '{split}' has 1 row, calibration needs at least 2.", why=why, fix=fix)
        if not self.is_fixed:
            return self._batched(self._stratified(split, samples, seed), 1, split)
        return self._decoded_once(split, samples, seed)

    def _decoded_once(self, split: str, samples: int, seed: int) -> Iterator[Batch]:
        """The calibration samples; kept, where they are few bytes, for the next target that asks."""
        asked = (split, samples, seed)
        if self._calibrated and self._calibrated[0] == asked:
            yield from self._calibrated[1]
            return
        kept, size = list[Batch](), 0
        for batch in self._batched(self._stratified(split, samples, seed), 1, split):
            size += sum(array.nbytes for array in (*batch.inputs.values(), *batch.truth.values()))
            if size <= CALIBRATION_BYTES:
                kept.append(batch)
            else:
                kept.clear()
            yield batch
        if size <= CALIBRATION_BYTES:
            self._calibrated = (asked, kept)

    def _stratified(self, split: str, samples: int, seed: int) -> Iterator[ManifestRow]:
        output = next((name for name, task in self._tasks.items() if task.is_one_label), None)
        column = self.card.column(output) if output else ""
        rank = labels.stratified((str(row.cells.get(column)) for row in self.source.rows(split)), samples, seed)
        chosen = [(rank[index], row) for index, row in enumerate(self.source.rows(split)) if index in rank]
        return (row for _, row in sorted(chosen, key=lambda entry: entry[0]))

    def _batched(self, rows: Iterator[ManifestRow], size: int, split: str, *, limit: int | None = None) -> Iterator[Batch]:
        size, count = 1 if self._one_a_call else size, 0
        waiting: list[DecodedRow] = []
        samples = self._good(rows, limit)
        while count != limit and (sample := next(samples, None)) is not None:
            waiting.append(sample)
            count += 1
            if len(waiting) == size:
                yield self._stack(waiting)
                waiting = []
        samples.close()
        if waiting:
            yield self._stack(waiting)
        if not count and limit != 0:
            why = next(iter(self.bad_rows), "")
            raise DataError(f"{self.source.name}: no row of split '{split}' can be read.", why=why, fix="mend the rows.")

    def _good(self, rows: Iterator[ManifestRow], limit: int | None) -> Generator[DecodedRow]:
        for sample in decode_ahead(self._decoder, rows, row_bytes=_row_bytes(self.card), most=limit):
            if isinstance(sample, DecodedRow):
                yield sample
                continue
            number, error = sample
            if self._bad is None:
                raise error
            self._bad[number] = f"{error.what} {error.why}".strip()

    def _stack(self, samples: list[DecodedRow]) -> Batch:
        inputs = {}
        for name, part in self._parts.items():
            axis = part.batch_axis()
            inputs[name] = (
                samples[0].inputs[name] if axis is None else self._stacked(name, [s.inputs[name] for s in samples], samples, axis)
            )
        return Batch(
            inputs,
            {name: self._stacked(name, [s.truth[name] for s in samples], samples) for name in self._tasks},
            {name: np.array([s.present[name] for s in samples]) for name, spec in self.card.inputs.items() if spec.optional},
            np.array([s.number for s in samples], np.int64),
        )

    def _stacked(self, name: str, values: list[np.ndarray], samples: list[DecodedRow], axis: int = 0) -> np.ndarray:
        for value, sample in zip(values, samples, strict=True):
            if value.shape != values[0].shape:
                raise DataError(
                    f"{self.source.name}, row {sample.number}, column '{self.card.column(name)}': its shape is {value.shape}, "
                    f"that of row {samples[0].number} {values[0].shape}.",
                    why="the rows of a batch have one shape.",
                    fix="give every row the same number of values or steps.",
                )
        return np.stack(values, axis=axis)

    def _check_columns(self) -> None:
        needed = [name for name, part in self._parts.items() if not self.card.inputs[name].optional and part.initial() is None]
        for name in [*needed, *self._tasks]:
            column = self.card.column(name)
            if column not in self.source.columns:
                raise DataError(
                    f"{self.source.name}: there is no column '{column}'.",
                    why=f"the card's {'input' if name in self.card.inputs else 'output'} '{name}' is read from it.",
                    fix=f"add it, or map another with columns: {{<column>: {name}}}; {nearest(column, self.source.columns)}",
                )


def _row_bytes(card: Card) -> int:
    sizes = (
        np.dtype(part.dtype()).itemsize * part.absent().size * (card.inputs[name].steps or 1) for name, part in modalities(card).items()
    )
    return sum(sizes)


def _synthetic_cell(part: Modality, steps: int | None, rng: np.random.Generator) -> np.ndarray:
    return np.stack([part.synthetic(rng) for _ in range(steps)]) if steps else part.synthetic(rng)


def _files(cell: Any, part: Modality | Task) -> list[str]:
    cells = cell if isinstance(cell, (list, tuple)) else cell.split("|") if isinstance(cell, str) else ()
    return [file.strip() for entry in cells if (file := part.file(entry))]


def _status(file: str, folder: Path) -> os.stat_result | None:
    try:
        return existing(file, folder).stat()
    except (DataError, OSError):
        return None
