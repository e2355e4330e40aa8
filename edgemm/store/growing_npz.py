"""An ``.npz`` written batch by batch: as many rows as come, of which only the latest are in memory."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edgemm.errors import DataError
from edgemm.store import stored_zip


def write(path: Path, batches: Iterable[Mapping[str, np.ndarray]]) -> None:
    """Write arrays that are longer by each batch; the same rows give the same bytes, however they are cut into batches.

    Meanwhile twice their size is needed on the disk.

    Args:
        batches: Name -> (rows, ...), the same names and shapes of a row in all.

    Raises:
        DataError: A batch whose rows have another shape than those before.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, ExitStack() as files:
        grown: dict[str, _Grown] = {}
        for batch in batches:
            for name, array in batch.items():
                if name not in grown:
                    place = Path(folder) / f"{len(grown)}.npy"
                    grown[name] = _Grown(name, place, files.enter_context(place.open("wb")), array)
                grown[name].add(array)
        for one in grown.values():
            one.end()
        with path.open("wb") as file:
            stored_zip.write(file, {f"{name}.npy": one.path for name, one in grown.items()})


class _Grown:
    """An ``.npy`` whose header is written again at the end: numpy leaves room in it for more rows."""

    def __init__(self, name: str, path: Path, file: BinaryIO, like: np.ndarray) -> None:
        self.name, self.path, self._file, self._like, self._rows = name, path, file, like[:0].copy(), 0
        file.write(self._header())

    def add(self, array: np.ndarray) -> None:
        if array.shape[1:] != self._like.shape[1:]:
            what = f"'{self.name}': rows have the shapes {self._like.shape[1:]} and {array.shape[1:]}."
            raise DataError(what, why="all rows have one shape.", fix="give each as many values.")
        self._file.write(np.ascontiguousarray(array, self._like.dtype).tobytes())
        self._rows += len(array)

    def end(self) -> None:
        self._file.seek(0)
        self._file.write(self._header())
        self._file.close()

    def _header(self) -> bytes:
        """Of as many bytes whatever the number of rows."""
        file = io.BytesIO()
        facts = {"descr": np.lib.format.dtype_to_descr(self._like.dtype), "fortran_order": False}
        np.lib.format.write_array_header_1_0(file, {**facts, "shape": (self._rows, *self._like.shape[1:])})
        return file.getvalue()
