"""What is odd about a dataset: channels that stand still, lie far out or repeat others, rows there twice, inputs that tell the label alone.

Facts, not faults: whoever knows the data decides. What real data shows by chance is not told, such as a tail, or two questions alike.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from itertools import combinations, islice
from typing import Any

import numpy as np

from edgemm.contracts import task as tasks
from edgemm.contracts.dataset import Batch
from edgemm.contracts.modality import existing
from edgemm.data import labels
from edgemm.data.dataset import TableDataset
from edgemm.data.manifest import SPLIT, SPLITS
from edgemm.data.outliers import describe, outlying
from edgemm.errors import DataError

ROWS = 1000  # decoded, of each split
ROWS_HASHED = 20_000  # of each split
DECODED_BYTES = 1 << 28
LARGEST_TABLE = 1 << 23  # labels times numbers of a sample; of more, no single number is looked at
COLUMNS_AT_ONCE = 4096
BATCH_SIZE = 32
FEWEST = 20  # rows: on fewer, anything may tell labels apart by chance
FEWEST_A_LABEL = 3
TIGHT = 0.05  # of the way to the next label's values: so close together lie the values of a copy of the label, and of nothing measured
COPY = 0.99999  # correlation with a measurement's truth that only a copy has
SHOWN = 3


def oddities(dataset: TableDataset) -> list[str]:
    """What is odd, a sentence each; of long datasets the first rows of each split are looked at.

    Raises:
        DataError: A row cannot be read.
    """
    sentences = [*_unread(dataset), *_unlabelled(dataset), *_repeated(dataset)]
    split = next((name for name in ("train", "val", "test", "calib") if name in dataset.splits()), "")
    if split:
        batches = list(_decoded(dataset, split))
        sentences += [*_standing(dataset, batches, split), *_labels(dataset, batches, split), *_telling(dataset, batches, split)]
    for name in dataset.splits():
        channels = outlying(dataset.card, [_present(batch) for batch in (batches if name == split else _decoded(dataset, name))])
        if told := [channel for channel in channels if channel.gap]:
            sentences.append(f"outlying: {describe(told)}, in {name}.")
    if dataset.bad_rows:
        sentences.append(f"unreadable: {_count(dataset.bad_rows, 'row')}, the first: {dataset.bad_rows[0]}")
    return sentences


def _decoded(dataset: TableDataset, split: str) -> Iterator[Batch]:
    first = next(iter(dataset.batches(split, 1, limit=1)))
    row_bytes = sum(array.nbytes for array in first.inputs.values())
    return dataset.batches(split, BATCH_SIZE, limit=max(FEWEST, min(ROWS, DECODED_BYTES // max(row_bytes, 1))))


def _present(batch: Batch) -> dict[str, np.ndarray]:
    """The inputs of a batch, of optional ones the samples that are there."""
    return {name: values[batch.present[name]] if name in batch.present else values for name, values in batch.inputs.items()}


def _unread(dataset: TableDataset) -> Iterator[str]:
    read = {SPLIT, *(dataset.card.column(name) for name in (*dataset.card.inputs, *dataset.card.outputs))}
    columns = [column for column in dataset.source.columns if column not in read]
    if columns:
        yield f"unread: no input and no output of the card reads {_listed(columns)}."


def _unlabelled(dataset: TableDataset) -> Iterator[str]:
    for name in dataset.labelled:
        column = dataset.card.column(name)
        for split in dataset.splits():
            rows = islice(dataset.source.rows(split), ROWS_HASHED)
            empty = [row.number for row in rows if not row.trouble and labels.is_empty(row.cells.get(column))]
            if empty:
                yield f"unlabelled: {_count(empty, 'row')} of {split} without '{name}': row {_listed(empty)}."


def _repeated(dataset: TableDataset) -> Iterator[str]:
    """Rows whose inputs are all equal, in a split and across splits; files that are in train and in another split."""
    parts = {dataset.card.column(name): part for name, part in dataset.parts.items() if dataset.card.column(name) in dataset.source.columns}
    rows, files = dict[str, dict[str, int]](), dict[str, dict[tuple[str, str], str]]()
    contents: dict[str, str] = {}
    for split in (name for name in SPLITS if name in dataset.splits()):
        seen, twice = rows.setdefault(split, {}), list[tuple[int, int]]()
        of_split = files.setdefault(split, {})
        for row in islice(dataset.source.rows(split), ROWS_HASHED):
            digests = []
            for column, part in parts.items():
                cell = row.cells.get(column)
                file = part.file(cell) if isinstance(cell, str) else None
                if file and file not in contents:
                    contents[file] = _content(dataset, file)
                digests.append(contents[file] if file else _digest(cell))
                if file:
                    of_split.setdefault((column, contents[file]), file)
            key = " ".join(digests)
            if key in seen:
                twice.append((seen[key], row.number))
            seen.setdefault(key, row.number)
        if twice:
            pairs = _listed([f"{one} and {other}" for one, other in twice])
            yield f"duplicate: {_count(twice, 'row')} of {split} with all inputs of another: rows {pairs}."
    for one, other in combinations(rows, 2):
        both = [key for key in rows[other] if key in rows[one]]
        if both:
            pairs = _listed([f"{rows[other][key]} ({one} {rows[one][key]})" for key in both])
            yield f"leaking: {_count(both, 'row')} of {other} with the same inputs as a row of {one}: rows {pairs}."
            continue
        shared = [file for key, file in files[other].items() if key in files[one]]
        if shared:
            yield f"leaking: {_count(shared, 'file')} of {other} in {one} too: {_listed(shared)}."


def _content(dataset: TableDataset, file: str) -> str:
    try:
        return hashlib.sha256(existing(file, dataset.source.folder).read_bytes()).hexdigest()
    except (DataError, OSError):
        return file


def _digest(cell: Any) -> str:
    if isinstance(cell, np.ndarray):
        return hashlib.sha256(repr((cell.dtype.str, cell.shape)).encode() + cell.tobytes()).hexdigest()
    return hashlib.sha256(repr(cell).encode()).hexdigest()


def _standing(dataset: TableDataset, batches: list[Batch], split: str) -> Iterator[str]:
    """Inputs and channels that are the same in all rows, and channels equal to another."""
    if sum(len(batch) for batch in batches) < FEWEST:
        return
    seen: dict[bytes, str] = {}
    for name, part in dataset.parts.items():
        if dataset.card.column(name) not in dataset.source.columns:
            continue
        inputs = [values for batch in batches if len(values := _present(batch)[name])]
        if not inputs:
            yield f"constant: '{name}' is missing in every row of {split}."
            continue
        if all(np.array_equal(sample, inputs[0][0]) for values in inputs for sample in values):
            yield f"constant: '{name}' is the same in every row of {split}."
            continue
        if not part.measured():
            continue
        columns = np.concatenate([values.reshape(-1, values.shape[-1] if values.ndim > 1 else 1) for values in inputs])
        still = [number for number, column in enumerate(columns.T) if (column == column[0]).all()]
        if still:
            yield f"constant: '{name}', channel {_listed(still)}: the same value throughout {split}."
        for number in sorted({*range(columns.shape[1])} - {*still}):
            where = f"'{name}', channel {number}" if columns.shape[1] > 1 else f"'{name}'"
            first = seen.setdefault(np.ascontiguousarray(columns[:, number]).tobytes(), where)
            if first != where:
                yield f"duplicate: {where} equals {first} throughout {split}."


def _labels(dataset: TableDataset, batches: list[Batch], split: str) -> Iterator[str]:
    """Outputs of one label only, and labels of the card without a row."""
    for name, task in dataset.labelled.items():
        if not tasks.of(task).is_one_label or dataset.count(split) < FEWEST:
            continue
        counts = Counter(str(cell) for cell in islice(dataset.cells(split, name), ROWS_HASHED))
        if len(counts) == 1:
            yield f"constant: '{name}' is {next(iter(counts))} in every row of {split}."
        present = {int(label) for batch in batches for label in np.unique(batch.truth[name])}
        absent = [
            label for number, label in enumerate(task.labels or ()) if number not in present and not {str(label), str(number)} & {*counts}
        ]
        if absent and len(counts) > 1 and str(split) == "train":
            yield f"unlabelled: no row of {split} has the label {_listed(list(absent))} of '{name}'."


def _telling(dataset: TableDataset, batches: list[Batch], split: str) -> Iterator[str]:
    """Single numbers of an input that tell an output's label or value alone, or that only count rows."""
    for name in (name for name in dataset.parts if dataset.card.column(name) in dataset.source.columns):
        samples = [batch.inputs[name] for batch in batches]
        if len({values.shape[1:] for values in samples}) > 1:
            continue
        values = np.concatenate(samples)
        flat, shape = values.reshape(len(values), -1), values.shape[1:]
        if len(flat) < FEWEST or not all(len(batch.rows) == len(batch.inputs[name]) for batch in batches):
            continue
        if dataset.parts[name].measured() and (numbers := _row_numbers(flat)):
            yield f"leaking: '{name}'{_at(numbers, shape)} is another whole number in each row of {split}, as a row's number is."
        for output, spec in dataset.labelled.items():
            truth, task = np.concatenate([batch.truth[output] for batch in batches]), tasks.of(spec)
            if truth.shape != (len(flat),) or not (task.is_one_label or task.is_quantity):
                continue
            where = _telling_labels(flat, truth) if task.is_one_label else _copies(flat, truth)
            if where:
                yield f"leaking: '{name}'{_at(where, shape)} tells '{output}' alone in {split}."


def _row_numbers(flat: np.ndarray) -> list[int]:
    """Positions whose values are all different whole numbers, close together."""
    rows = len(flat)
    near = (flat.max(axis=0) - flat.min(axis=0) < 3.0 * rows) & (flat == np.round(flat)).all(axis=0)
    return [int(position) for position in np.flatnonzero(near) if len(np.unique(flat[:, position])) == rows]


def _telling_labels(flat: np.ndarray, truth: np.ndarray) -> list[int]:
    """Positions at which every label has values of its own, close together; else those that do so for one label each, if all have one."""
    known, counts = np.unique(truth, return_counts=True)
    known = known[counts >= FEWEST_A_LABEL]
    if len(known) < 2 or np.isin(truth, known).mean() < 0.9 or len(known) * flat.shape[1] > LARGEST_TABLE:
        return []
    low = np.stack([flat[truth == label].min(axis=0) for label in known]).astype(np.float64)
    high = np.stack([flat[truth == label].max(axis=0) for label in known]).astype(np.float64)
    order = np.argsort(low, axis=0)
    lows, highs = np.take_along_axis(low, order, axis=0), np.take_along_axis(high, order, axis=0)
    gaps = (lows[1:] - highs[:-1]).min(axis=0)
    tells_all = np.flatnonzero((gaps > 0) & ((highs - lows).max(axis=0) <= TIGHT * gaps))
    if len(tells_all):
        return tells_all.tolist()
    own = []
    for number in range(len(known)):
        others_low, others_high = np.delete(low, number, axis=0).min(axis=0), np.delete(high, number, axis=0).max(axis=0)
        gap = np.maximum(low[number] - others_high, others_low - high[number])
        widest = np.maximum(high[number] - low[number], others_high - others_low)
        own.append(np.flatnonzero((gap > 0) & (widest <= TIGHT * gap))[:1].tolist())
    return [position for positions in own for position in positions] if sum(map(bool, own)) >= len(known) - 1 else []


def _copies(flat: np.ndarray, truth: np.ndarray) -> list[int]:
    """Positions that follow a measurement's truth exactly."""
    target, copies = truth - truth.mean(dtype=np.float64), list[int]()
    for start in range(0, flat.shape[1], COLUMNS_AT_ONCE):
        values = flat[:, start : start + COLUMNS_AT_ONCE]
        values = values - values.mean(axis=0, dtype=np.float64)
        norms = np.linalg.norm(values, axis=0) * np.linalg.norm(target)
        copies += (start + np.flatnonzero(np.abs(target @ values) > COPY * np.maximum(norms, 1e-30))).tolist()
    return copies


def _at(positions: list[int], shape: tuple[int, ...]) -> str:
    if not shape or shape == (1,):
        return ""
    if len(shape) == 1:
        return f", channel {_listed(positions)}"
    return f" at {_listed([tuple(map(int, np.unravel_index(position, shape))) for position in positions])}"


def _count(items: list[Any], noun: str) -> str:
    return f"{len(items)} {noun}{'s' * (len(items) != 1)}"


def _listed(items: list[Any]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(str(item) for item in items[:SHOWN]) + more
