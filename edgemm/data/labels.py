"""Labels in the cells of a dataset, as tasks read them, and a choice of rows that covers them."""

from __future__ import annotations

import functools
import heapq
import math
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from edgemm.errors import DataError, nearest

MOST_LABELS = 10_000  # more different values than that are measurements, not labels
STRATA = 4096  # labels beyond that many share a stratum
WHOLE = re.compile(r"[+-]?\d+(\.0+)?", re.ASCII)
NUMBER = re.compile(r"[+-]?(0|[1-9]\d*)(\.\d+)?", re.ASCII)
"""What is a number and no code: 007 is a word."""
BOOLEANS = (("false", "true"), ("no", "yes"), ("off", "on"), ("0", "1"))


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
    """Which label stands in a cell: its name, the same number written otherwise (1.0 for 1), true, yes, on or 1 for a boolean or the
    word for one (True), or its place where no label is a number itself.

    Raises:
        DataError: The cell is empty, the label is none of ``labels``, or these are not known yet.
    """
    if is_empty(cell):
        raise empty()
    labels = require_labels(labels, output)
    places, numeric, of_number = _places(labels)
    for word in (composed(str(cell).strip()), word_of(cell)):
        if word in places:
            return places[word]
    if word.lower() in BOOLEANS[0]:
        lower = {label.lower(): index for label, index in places.items()}
        pair = next((pair for pair in BOOLEANS if lower.keys() >= set(pair)), None)
        if pair and len(lower) == len(places):
            return lower[pair[word.lower() == "true"]]
    if NUMBER.fullmatch(word) and float(word) in of_number:
        return of_number[float(word)]
    if not numeric and WHOLE.fullmatch(word) and 0 <= float(word) < len(labels):
        index = int(float(word))
        if any({label.lower() for label in labels} == set(pair) and labels[index].lower() != pair[index] for pair in BOOLEANS):
            why = f"the card has '{labels[index]}' at place {index}, and {index} is also said for {('no', 'yes')[index]}."
            raise DataError(f"'{word}' may mean either label.", why=why, fix=f"write {' and '.join(labels)} in the rows.")
        return index
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
    word = composed(str(cell).strip())
    return word.rstrip("0").rstrip(".") if "." in word and NUMBER.fullmatch(word) else word


def composed(word: str) -> str:
    """The word with each letter and its accents as one character: macOS and others write two, which look the same."""
    return word if word.isascii() else unicodedata.normalize("NFC", word)


def empty() -> DataError:
    """The error of a cell that has to hold something."""
    return DataError("the cell is empty.", fix="fill it, remove the row, or pass --skip-bad-rows.")


def named(scores: np.ndarray, labels: tuple[str, ...] | None) -> dict[str, float]:
    """Label -> its score; numbers where the card lists no labels."""
    labels = labels or tuple(str(number) for number in range(len(scores)))
    return {label: float(score) for label, score in zip(labels, scores, strict=False)}


def sorted_labels(found: Iterable[str], output: str, name: str, *, why: str = "") -> tuple[str, ...]:
    """Labels in order: as numbers when all are whole numbers, else as words.

    Args:
        output, name: Of the output and of the dataset, for errors.
        why: What may be the reason where none were found.

    Raises:
        DataError: None were found, or so many that they must be measurements.
    """
    labels = set(found)
    if not labels:
        raise DataError(
            f"{name}: no row of split 'train' has a label for '{output}'.",
            why=why,
            fix=f"{'mend the rows' if why else 'fill the column'}, or list outputs.{output}.labels.",
        )
    if len(labels) > MOST_LABELS:
        raise DataError(
            f"{name}: column for '{output}' holds more than {MOST_LABELS} different values.",
            why="those are measurements, not labels.",
            fix=f"set outputs.{output}.task to regression, or list its labels in the card.",
        )
    if all(re.fullmatch(r"[+-]?\d+", label) for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
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
def _places(labels: tuple[str, ...]) -> tuple[dict[str, int], bool, dict[float, int]]:
    """Label -> index; whether all labels are numbers (then a number in the data is a label's name, never an index); number -> index."""
    numbers = [float(label) for label in labels if NUMBER.fullmatch(label)]
    of_number = {float(label): index for index, label in enumerate(labels) if NUMBER.fullmatch(label) and numbers.count(float(label)) == 1}
    return {composed(label): index for index, label in enumerate(labels)}, all(WHOLE.fullmatch(label) for label in labels), of_number
