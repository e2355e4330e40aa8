"""Labels in the cells of a dataset, as tasks read them, and a choice of rows that covers them."""

from __future__ import annotations

import functools
import heapq
import math
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from edgemm.errors import DataError, nearest

MOST_LABELS = 10_000  # more different values than that are measurements, not labels
STRATA = 4096  # labels beyond that many share a stratum
WHOLE = re.compile(r"[+-]?\d+(\.0+)?")


def is_empty(cell: Any) -> bool:
    """Whether a cell holds nothing: null, blanks, an empty list, or the NaN that stands for null in a table."""
    if cell is None:
        return True
    if isinstance(cell, str):
        return not cell.strip()
    if isinstance(cell, (float, np.floating)):
        return math.isnan(cell)
    return isinstance(cell, (list, tuple, np.ndarray)) and np.size(np.asarray(cell, object)) == 0


def items(cell: Any, between: str) -> list[Any]:
    """What a cell lists: text parted by ``between``, or the items of a list; [] where it is empty."""
    if is_empty(cell):
        return []
    if isinstance(cell, str):
        return [item.strip() for item in cell.split(between) if item.strip()]
    return list(cell) if isinstance(cell, (list, tuple, np.ndarray)) and np.ndim(np.asarray(cell, object)) else [cell]


def by_step(cell: Any, between: str, truth: Callable[[Any], np.ndarray]) -> np.ndarray:
    """The truth of every step of a cell, (T, ...).

    Raises:
        DataError: There is no step in it, or as ``truth``.
    """
    steps = items(cell, between)
    if not steps:
        raise empty()
    return np.stack([truth(step) for step in steps])


def index_of(cell: Any, labels: tuple[str, ...] | None, output: str) -> int:
    """Which label stands in a cell: its name, yes or no for a boolean, or its number where no label is a number itself.

    Raises:
        DataError: The cell is empty, the label is none of ``labels``, or these are not known yet.
    """
    if is_empty(cell):
        raise empty()
    labels = require_labels(labels, output)
    places, numeric = _places(labels)
    word = word_of(cell)
    if word in places:
        return places[word]
    if isinstance(cell, (bool, np.bool_)) and "yes" in places and "no" in places:
        return places["yes" if cell else "no"]  # the card, too, reads YAML's booleans as these words
    if not numeric and WHOLE.fullmatch(word) and 0 <= int(float(word)) < len(labels):
        return int(float(word))
    listing = ", ".join(labels[:30]) + (f" and {len(labels) - 30} more" if len(labels) > 30 else "")
    raise DataError(
        f"label '{word}' is not in the card.",
        why=f"outputs.{output}.labels: {listing}.",
        fix=f"mend the row or the card; {nearest(word, labels[:30])}",
    )


def require_labels(labels: tuple[str, ...] | None, output: str) -> tuple[str, ...]:
    """Raises DataError where the card lists none."""
    if labels is None:
        raise DataError(
            f"output '{output}' has no labels yet.",
            why="the card lists none.",
            fix=f"train the model (train fills them in), or list outputs.{output}.labels.",
        )
    return labels


def word_of(cell: Any) -> str:
    """What a cell says, as a label is written."""
    if isinstance(cell, (np.generic, np.ndarray)) and np.ndim(cell) == 0:
        cell = cell.item()
    if isinstance(cell, bytes):
        cell = cell.decode("utf-8", "replace")
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return str(cell).strip()


def empty() -> DataError:
    """The error of a cell that has to hold something."""
    return DataError("the cell is empty.", fix="fill it, remove the row, or pass --skip-bad-rows.")


def named(scores: np.ndarray, labels: tuple[str, ...] | None) -> dict[str, float]:
    """Label -> its score; numbers where the card lists no labels."""
    labels = labels or tuple(str(number) for number in range(len(scores)))
    return {label: float(score) for label, score in zip(labels, scores, strict=False)}


def sorted_labels(found: Iterable[str], output: str, name: str) -> tuple[str, ...]:
    """Labels in order: as numbers when all are whole numbers, else as words.

    Args:
        output, name: Of the output and of the dataset, for errors.

    Raises:
        DataError: None were found, or so many that they must be measurements.
    """
    labels = set(found)
    if not labels:
        raise DataError(
            f"{name}: no row of split 'train' has a label for '{output}'.", fix=f"fill the column, or list outputs.{output}.labels."
        )
    if len(labels) > MOST_LABELS:
        raise DataError(
            f"{name}: column for '{output}' holds more than {MOST_LABELS} different values.",
            why="those are measurements, not labels.",
            fix=f"set outputs.{output}.task to regression, or list its labels in the card.",
        )
    if all(re.fullmatch(r"[+-]?\d+", label) for label in labels):
        return tuple(sorted(labels, key=int))
    return tuple(sorted(labels))


def stratified(labels: Iterable[str], samples: int, seed: int) -> dict[int, int]:
    """Choose rows in proportion to their labels, each label at least once where ``samples`` allow.

    Args:
        labels: The label of each row, in order; read once.

    Returns:
        Index of a chosen row -> its rank in a random order. Depends on nothing but labels, ``samples`` and ``seed``.
    """
    strata: dict[str, list[tuple[int, int]]] = {}  # label -> heap of (-key, -index): the rows of smallest key
    counts: dict[str, int] = {}
    for index, label in enumerate(labels):
        label = label if label in counts or len(counts) < STRATA else ""
        counts[label] = counts.get(label, 0) + 1
        entry = (-zlib.crc32(f"{seed} {index}".encode()), -index)
        heap = strata.setdefault(label, [])
        if len(heap) < samples:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)
    shares = _shares(counts, min(samples, sum(counts.values())))
    chosen = [entry for label, heap in strata.items() for entry in heapq.nlargest(shares[label], heap)]
    return {-index: rank for rank, (_, index) in enumerate(sorted(chosen, reverse=True))}


def _shares(counts: Mapping[str, int], samples: int) -> dict[str, int]:
    """How many of ``samples`` each label gets: one each, then always the label that is furthest below its due."""
    total = sum(counts.values())
    by_size = sorted(counts, key=lambda label: (-counts[label], label))
    shares = {label: int(rank < samples) for rank, label in enumerate(by_size)}
    for _ in range(samples - sum(shares.values())):
        open_ones = (label for label in by_size if shares[label] < counts[label])
        shares[max(open_ones, key=lambda label: counts[label] * samples / total - shares[label])] += 1
    return shares


@functools.lru_cache(maxsize=64)
def _places(labels: tuple[str, ...]) -> tuple[dict[str, int], bool]:
    """Label -> index, and whether all labels are numbers (then a number in the data is a label's name, never an index)."""
    return {label: index for index, label in enumerate(labels)}, all(WHOLE.fullmatch(label) for label in labels)
