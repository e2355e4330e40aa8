"""What a row says about the outputs: labels, numbers, and a choice of rows that covers the labels."""

from __future__ import annotations

import functools
import heapq
import math
import re
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from edgemm.contracts.card import Output
from edgemm.errors import DataError, nearest

UNLABELLED = ("embedding", "tensor")
"""Tasks that have no column."""

MOST_LABELS = 10_000  # more different values than that are measurements, not labels
STRATA = 4096  # labels beyond that many share a stratum
WHOLE = re.compile(r"[+-]?\d+(\.0+)?")


def encode(cell: Any, spec: Output) -> np.ndarray:
    """The target in a cell.

    Returns:
        classification: int64 (); multilabel: float32 (labels,); regression: float32 () or (d,). ``per_step`` puts T before. Steps are
        separated by ``|`` (multilabel: ``;``) or are the items of a list.

    Raises:
        DataError: A label that is not in the card, a word that is no number, NaN, an empty cell.
    """
    if spec.per_step:
        steps = _items(cell, ";" if spec.task == "multilabel" else "|")
        if not steps:
            raise _empty()
        return np.stack([encode(step, _of_a_step(spec)) for step in steps])
    if spec.task == "regression":
        return _numbers(cell)
    if spec.task == "multilabel":
        return _several(cell, spec)
    if is_empty(cell):
        raise _empty()
    return np.asarray(_index(cell, spec), np.int64)


def is_empty(cell: Any) -> bool:
    """Whether a cell holds nothing: null, blanks, an empty list, or the NaN that stands for null in a table."""
    if cell is None:
        return True
    if isinstance(cell, str):
        return not cell.strip()
    if isinstance(cell, (float, np.floating)):
        return math.isnan(cell)
    return isinstance(cell, (list, tuple, np.ndarray)) and np.size(np.asarray(cell, object)) == 0


def labels_in(cell: Any, spec: Output) -> list[str]:
    """The labels' names in a cell, for ``find_labels``."""
    if is_empty(cell):
        return []
    if spec.per_step:
        return [label for step in _items(cell, ";" if spec.task == "multilabel" else "|") for label in labels_in(step, _of_a_step(spec))]
    if spec.task == "multilabel":
        if isinstance(cell, np.ndarray) and cell.dtype.kind in "fiub":
            return [str(place) for place in range(len(cell))]
        return [_word(item) for item in _items(cell, "|")]
    return [_word(cell)]


def sorted_labels(found: Iterable[str], spec: Output, name: str) -> tuple[str, ...]:
    """Labels in order: as numbers when all are whole numbers, else as words.

    Raises:
        DataError: None were found, or so many that they must be measurements.
    """
    labels = set(found)
    if not labels:
        raise DataError(
            f"{name}: no row of split 'train' has a label for '{spec.name}'.", fix=f"fill the column, or list outputs.{spec.name}.labels."
        )
    if len(labels) > MOST_LABELS:
        raise DataError(
            f"{name}: column for '{spec.name}' holds more than {MOST_LABELS} different values.",
            why="those are measurements, not labels.",
            fix=f"set outputs.{spec.name}.task to regression, or list its labels in the card.",
        )
    if all(re.fullmatch(r"[+-]?\d+", label) for label in labels):
        return tuple(sorted(labels, key=int))
    return tuple(sorted(labels))


def stratified(labels: Iterable[str], samples: int, seed: int) -> dict[int, int]:
    """Choose rows in proportion to their labels, each label at least once where ``samples`` allow.

    Args:
        labels: The label of each row, in order; read once.

    Returns:
        Place of a chosen row -> its rank in a random order. Depends on nothing but labels, ``samples`` and ``seed``.
    """
    strata: dict[str, list[tuple[int, int]]] = {}  # label -> heap of (-key, -place): the rows of smallest key
    counts: dict[str, int] = {}
    for place, label in enumerate(labels):
        label = label if label in counts or len(counts) < STRATA else ""
        counts[label] = counts.get(label, 0) + 1
        entry = (-zlib.crc32(f"{seed} {place}".encode()), -place)
        heap = strata.setdefault(label, [])
        if len(heap) < samples:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)
    shares = _shares(counts, min(samples, sum(counts.values())))
    chosen = [entry for label, heap in strata.items() for entry in heapq.nlargest(shares[label], heap)]
    return {-place: rank for rank, (_, place) in enumerate(sorted(chosen, reverse=True))}


def _shares(counts: Mapping[str, int], samples: int) -> dict[str, int]:
    """How many of ``samples`` each label gets: one each, then always the label that is furthest below its due."""
    total = sum(counts.values())
    by_size = sorted(counts, key=lambda label: (-counts[label], label))
    shares = {label: int(place < samples) for place, label in enumerate(by_size)}
    for _ in range(samples - sum(shares.values())):
        open_ones = (label for label in by_size if shares[label] < counts[label])
        shares[max(open_ones, key=lambda label: counts[label] * samples / total - shares[label])] += 1
    return shares


@functools.lru_cache(maxsize=256)
def _of_a_step(spec: Output) -> Output:
    return Output(spec.name, spec.task, spec.labels, spec.unit)


def _items(cell: Any, between: str) -> list[Any]:
    if is_empty(cell):
        return []
    if isinstance(cell, str):
        return [item.strip() for item in cell.split(between) if item.strip()]
    return list(cell) if isinstance(cell, (list, tuple, np.ndarray)) and np.ndim(np.asarray(cell, object)) else [cell]


def _index(cell: Any, spec: Output) -> int:
    labels = _labels(spec)
    places, numeric = _places(labels)
    word = _word(cell)
    if word in places:
        return places[word]
    if isinstance(cell, (bool, np.bool_)) and "yes" in places and "no" in places:
        return places["yes" if cell else "no"]  # the card, too, reads YAML's booleans as these words
    if not numeric and WHOLE.fullmatch(word) and 0 <= int(float(word)) < len(labels):
        return int(float(word))
    listing = ", ".join(labels[:30]) + (f" and {len(labels) - 30} more" if len(labels) > 30 else "")
    raise DataError(
        f"label '{word}' is not in the card.",
        why=f"outputs.{spec.name}.labels: {listing}.",
        fix=f"mend the row or the card; {nearest(word, labels[:30])}",
    )


@functools.lru_cache(maxsize=64)
def _places(labels: tuple[str, ...]) -> tuple[dict[str, int], bool]:
    """Label -> index, and whether all labels are numbers (then a number in the data is a label's name, never an index)."""
    return {label: place for place, label in enumerate(labels)}, all(WHOLE.fullmatch(label) for label in labels)


def _labels(spec: Output) -> tuple[str, ...]:
    if spec.labels is None:
        raise DataError(
            f"output '{spec.name}' has no labels yet.",
            why="the card lists none.",
            fix=f"train the model (train fills them in), or list outputs.{spec.name}.labels.",
        )
    return spec.labels


def _word(cell: Any) -> str:
    if isinstance(cell, (np.generic, np.ndarray)) and np.ndim(cell) == 0:
        cell = cell.item()
    if isinstance(cell, bytes):
        cell = cell.decode("utf-8", "replace")
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return str(cell).strip()


def _several(cell: Any, spec: Output) -> np.ndarray:
    labels = _labels(spec)
    if isinstance(cell, np.ndarray) and cell.dtype.kind in "fiub" and cell.shape == (len(labels),) and np.isin(cell, (0, 1)).all():
        return cell.astype(np.float32)
    row = np.zeros(len(labels), np.float32)
    for item in _items(cell, "|"):
        row[_index(item, spec)] = 1.0
    return row


def _numbers(cell: Any) -> np.ndarray:
    if isinstance(cell, str):
        words = re.split(r"[\s,;|]+", cell.strip().strip("[]").strip())
        cell = words if len(words) > 1 else words[0]
    if cell is None or (isinstance(cell, (str, list, tuple)) and not cell):
        raise _empty()
    try:
        numbers = np.asarray(cell, np.float32)
    except (TypeError, ValueError) as err:
        raise DataError(f"'{cell}' is no number.", fix="write a number, such as 61.5.") from err
    if not np.isfinite(numbers).all():
        raise DataError(f"the value is {cell}.", why="a target is a finite number.", fix="mend or remove the row, or pass --skip-bad-rows.")
    return numbers[0] if numbers.shape == (1,) else numbers


def _empty() -> DataError:
    return DataError("the cell is empty.", fix="fill it, remove the row, or pass --skip-bad-rows.")
