"""A plain tensor: what an ONNX file without a card of its own takes. No front-end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgemm.contracts.frontend_ops import Op
from edgemm.contracts.modality import Modality
from edgemm.contracts.number_cells import finite, is_npy, numbers, shaped
from edgemm.contracts.specs import BATCH
from edgemm.errors import CardError, DataError

FREE = 16  # what a free axis measures in synthetic samples


class Tensor(Modality):
    """A tensor as the graph declares it."""

    def __init__(
        self, *, dtype: str, shape: list[int | str], state: str | None = None, value: int | float | bool | list[Any] | None = None
    ) -> None:
        """
        Args:
            dtype: numpy name, such as ``float32``.
            shape: The graph's whole shape. ``batch`` names the axis that counts samples, wherever it stands ([2, batch, 128]); without
                it the graph takes one sample a call ([1, 3, 240, 320], or [] for a scalar). Another word names a free axis.
            state: Output that is fed back into this input at the next call; zeros at first.
            value: A constant.

        Raises:
            CardError: Unknown dtype, sizes below 1, ``batch`` twice, a value of another shape.
        """
        try:
            self._dtype = np.dtype(dtype).name
        except TypeError as err:
            raise CardError(f"dtype is '{dtype}'.", fix="write a numpy name: float32, int64, uint8, bool.") from err
        if any(isinstance(size, int) and size < 1 for size in shape):
            raise CardError(f"shape is {shape}.", fix="write sizes of at least 1, and 'batch' for the axis that counts samples.")
        if shape.count(BATCH) > 1:
            raise CardError(f"shape is {shape}.", why="'batch' names one axis.", fix="call other free axes something else.")
        if state is not None and value is not None:
            raise CardError("state and value exclude each other.", fix="keep state for what is fed back, value for a constant.")
        self._axis = shape.index(BATCH) if BATCH in shape else None
        self._shape = tuple(size for size in shape if size != BATCH)
        self.state, self.value = state, value
        if value is not None:
            self._constant()

    def dtype(self) -> str:
        return self._dtype

    def shape(self) -> tuple[int | str, ...]:
        return self._shape

    def batch_axis(self) -> int | None:
        return self._axis

    def decode(self, cell: Any, folder: Path) -> np.ndarray:
        """A .npy file, numbers, or an array -> one sample, of the card's dtype.

        Raises:
            DataError: It does not fit, holds NaN, or is not exactly a value of the card's dtype.
        """
        values = numbers(cell, folder)
        fixed = tuple(size if isinstance(size, int) else self._measure(values, axis) for axis, size in enumerate(self._shape))
        values = shaped(values, fixed, cell)
        if values.dtype.kind == "f":
            finite(values)
        with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is found below
            array = values.astype(self._dtype)
        if not (np.isfinite(array).all() if array.dtype.kind == "f" else np.array_equal(array, values)):
            raise DataError(f"the cell holds values that are no {self._dtype}.", fix=f"store it as {self._dtype}.")
        return array

    def initial(self) -> np.ndarray | None:
        """A constant's value; zeros for a state; None for what the data must bring."""
        if self.value is not None:
            return self._constant()
        return np.zeros(self._sizes(), self._dtype) if self.state is not None else None

    def measured(self) -> bool:
        """Numbers that the data brings; not bytes, and not int64, which are ids."""
        dtype = np.dtype(self._dtype)
        return self.initial() is None and (dtype.kind == "f" or (dtype.kind in "iu" and dtype.itemsize in (2, 4)))

    def frontend(self) -> list[Op]:
        return []

    def synthetic(self, rng: np.random.Generator) -> np.ndarray:
        """Normal floats, bytes for uint8, small whole numbers otherwise; a constant's value, zeros for a state."""
        fixed = self.initial()
        if fixed is not None:
            return fixed
        kind = np.dtype(self._dtype).kind
        if kind == "f":
            return np.asarray(rng.normal(0, 1, self._sizes()), self._dtype)
        return np.asarray(rng.integers(0, 256 if self._dtype == "uint8" else 2, self._sizes()), self._dtype)

    def file_ends(self) -> tuple[str, ...] | None:
        return (".npy",)

    def file(self, cell: Any) -> str | None:
        return cell if is_npy(cell) else None

    def _measure(self, array: np.ndarray, axis: int) -> int:
        if array.ndim != len(self._shape):
            raise DataError(
                f"the cell has shape {array.shape}, the card says {list(self._shape)}.",
                why="a shape with a free axis needs an array with all its axes.",
                fix="store the array itself (.npy or .npz).",
            )
        return int(array.shape[axis])

    def _sizes(self) -> tuple[int, ...]:
        return tuple(FREE if isinstance(size, str) else size for size in self._shape)

    def _constant(self) -> np.ndarray:
        try:
            return np.broadcast_to(np.asarray(self.value, self._dtype), self._sizes()).copy()
        except (ValueError, OverflowError) as err:
            raise CardError(
                f"value is {self.value!r}.", why=f"it is no {self._dtype} of shape {list(self._shape)}.", fix="mend value."
            ) from err
