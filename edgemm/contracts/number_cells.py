"""Cells that hold numbers, or name a .npy file that does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.contracts.modality import existing
from edgemm.errors import DataError
from edgemm.store import json_text

BETWEEN = re.compile(r"[\s,;]+")
DECIMAL_COMMAS = re.compile(r"[-+]?\d+(?:,\d+)?(?:[eE][-+]?\d+)?")


def is_npy(cell: Any) -> bool:
    """Whether a cell names a .npy file."""
    return isinstance(cell, str) and cell.strip().lower().endswith(".npy")


def numbers(cell: Any, folder: Path) -> np.ndarray:
    """The numbers in a cell, in whatever shape they stand there.

    Raises:
        DataError: The file is missing or no array; a word that is no number; lists of unequal length.
    """
    if is_npy(cell):
        return _array(_load(existing(cell, folder)), f"'{cell}'")
    if not isinstance(cell, str):
        return _array(cell, "the cell")
    text = cell.strip()
    if text.startswith("["):
        try:
            return _array(json_text.loads(text), "the cell")
        except ValueError as err:
            raise DataError(
                f"'{_short(text)}' is no list of numbers.", why=f"{err}.", fix="write a JSON list, or numbers with blanks between."
            ) from err
    words = BETWEEN.split(text.strip(",; \t\n"))
    try:
        return np.array([_number(word) for word in words], np.float64)
    except ValueError as err:
        wrong = next((word for word in words if not _is_number(word)), text)
        raise DataError(
            f"'{_short(wrong)}' is no number.",
            fix="write numbers with blanks, commas or semicolons between, a JSON list, or a path to a .npy file.",
        ) from err


def shaped(array: np.ndarray, shape: Sequence[int], cell: Any = None) -> np.ndarray:
    """``array`` in ``shape``, when it holds as many numbers and differs by being flat or by axes of length 1.

    Args:
        cell: What it was read from: where that fits with commas for decimal points, the error says so.

    Raises:
        DataError: It does not fit.
    """
    if array.shape == tuple(shape):
        return array
    squeezed = tuple(size for size in shape if size != 1)
    if array.size == np.prod(shape, dtype=int) and (array.ndim == 1 or tuple(size for size in array.shape if size != 1) == squeezed):
        return array.reshape(shape)
    words = re.split(r"[\s;]+", cell.strip()) if isinstance(cell, str) else []
    if len(words) == np.prod(shape, dtype=int) and all(map(DECIMAL_COMMAS.fullmatch, words)):
        raise DataError(
            f"the cell holds {array.size} numbers, the card says {list(shape)}: '{_short(str(cell).strip())}'.",
            why="a comma stands between numbers; as a decimal comma it would fit.",
            fix="write decimal points: 1.5 2.5.",
        )
    raise DataError(
        f"the cell holds {array.size} numbers in shape {array.shape}, the card says {list(shape)}.",
        why=f"that is {int(np.prod(shape, dtype=int))} numbers.",
        fix="cut the window to the card's shape, or change the card.",
    )


def finite(array: np.ndarray) -> np.ndarray:
    """``array`` itself, when all of it is finite.

    Raises:
        DataError: It holds NaN or infinity; says where.
    """
    good = np.isfinite(array)
    if good.all():
        return array
    position = tuple(int(index) for index in np.argwhere(~good)[0])
    raise DataError(
        f"the value at {list(position)} is {array[position]}.",
        why=f"{int((~good).sum())} of {array.size} values are not finite, and a model turns one such value into nonsense.",
        fix="mend or remove the row, fill the gap, or pass --skip-bad-rows.",
    )


def _array(values: Any, name: str) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError as err:
        raise DataError(f"{name} holds lists of unequal length.", why=f"{err}.", fix="give every row as many numbers.") from err
    if array.dtype.kind == "O" and array.size and all(value is None or isinstance(value, (int, float)) for value in array.flat):
        array = array.astype(np.float64)  # None, a null, becomes NaN and is found by ``finite``
    if array.dtype.kind not in "fiub":
        raise DataError(f"{name} holds {array.dtype} values.", why="numbers are wanted.", fix="write numbers, or a path to a .npy file.")
    return array


def _load(path: Path) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, allow_pickle=False)
        return array
    except Exception as err:  # a header with one changed byte is told by Python's tokenizer, a size beyond memory by another kind
        raise DataError(
            f"'{path}' is no readable .npy file.", why=f"{err}".rstrip(".") + ".", fix="write it with numpy.save, without objects."
        ) from err


def _number(word: str) -> float:
    if "_" in word:  # Python reads 1_0 as 10
        raise ValueError("an underscore")
    return float(word)


def _is_number(word: str) -> bool:
    try:
        _number(word)
    except ValueError:
        return False
    return True


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
