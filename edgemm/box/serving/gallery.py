"""A gallery: vectors of known things in a file, and which of them another vector looks like. numpy alone."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgemm.errors import DataError
from edgemm.store.artifact import write_bytes


@dataclass(frozen=True)
class Gallery:
    """Known things.

    Attributes:
        vectors: float32 (n, d), each of length 1.
        names: (n,), what each is called.
        output: Of the model, whose vectors they are.
    """

    vectors: np.ndarray
    names: np.ndarray
    output: str

    def nearest(self, vector: np.ndarray, most: int = 1) -> list[tuple[str, float]]:
        """The names that a vector (d,) is most like, with their cosines, the most alike first; a name counts by its best vector."""
        vector = np.asarray(vector, np.float32).ravel()
        cosines = self.vectors @ (vector / max(float(np.linalg.norm(vector)), 1e-12))
        best: dict[str, float] = {}
        for at in np.argsort(-cosines, kind="stable"):
            best.setdefault(str(self.names[at]), float(cosines[at]))
            if len(best) == most:
                break
        return list(best.items())

    def save(self, path: Path) -> None:
        """Write it as .npz, whole or not at all."""
        content = io.BytesIO()
        np.savez(content, vectors=self.vectors, names=self.names.astype(str), output=np.array(self.output))
        write_bytes(path, content.getvalue())


def load(path: Path) -> Gallery:
    """A gallery from its file.

    Raises:
        DataError: It is none.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            vectors, names, output = file["vectors"], file["names"], str(file["output"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as err:
        raise DataError(f"'{path}' is no gallery.", why=f"{err}".rstrip(".") + ".", fix="make one: edgemm index BUNDLE -d DATA.") from err
    if vectors.ndim != 2 or len(vectors) != len(names) or not len(vectors) or not np.isfinite(vectors).all():
        raise DataError(f"'{path}' is no gallery.", why=f"it holds {vectors.shape} numbers for {len(names)} names.", fix="make it anew.")
    return Gallery(vectors.astype(np.float32), names, output)


def unit(vectors: np.ndarray) -> np.ndarray:
    """float32 rows of length 1."""
    rows = vectors.reshape(len(vectors), -1).astype(np.float32)
    units: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return units
