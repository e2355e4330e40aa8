"""A gallery: vectors of known things in a file, and which of them another vector looks like. numpy alone."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, replace
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
        model: sha256 of that model's float graph; "" where the file does not say.
        threshold: The cosine of the equal error rate among them, from which on somebody counts as known; None where it cannot be told.
    """

    vectors: np.ndarray
    names: np.ndarray
    output: str
    model: str = ""
    threshold: float | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """Each name once, in the order of the file."""
        return tuple(dict.fromkeys(map(str, self.names)))

    def scores(self, vector: np.ndarray) -> dict[str, float]:
        """Each name's cosine with a vector (d,): that of its best."""
        vector = np.asarray(vector, np.float32).ravel()
        cosines = self.vectors @ (vector / max(float(np.linalg.norm(vector)), 1e-12))
        best = dict.fromkeys(self.labels, -1.0)
        for name, cosine in zip(map(str, self.names), cosines.tolist(), strict=True):
            best[name] = max(best[name], cosine)
        return best

    def nearest(self, vector: np.ndarray, most: int = 1) -> list[tuple[str, float]]:
        """The names that a vector (d,) is most like, with their cosines, the most alike first."""
        return sorted(self.scores(vector).items(), key=lambda one: -one[1])[:most]

    def with_one(self, name: str, vector: np.ndarray) -> Gallery:
        """The same, and one vector (d,) more."""
        row = unit(np.asarray(vector).reshape(1, -1))
        vectors = np.concatenate([self.vectors, row]) if len(self.names) else row
        return replace(self, vectors=vectors, names=np.append(self.names.astype(str), name))

    def without(self, name: str) -> Gallery:
        """The same without a name."""
        kept = self.names.astype(str) != name
        return replace(self, vectors=self.vectors[kept], names=self.names[kept])

    def save(self, path: Path) -> None:
        """Write it as .npz, whole or not at all.

        Raises:
            OutputError: It cannot be written.
        """
        content = io.BytesIO()
        told = {"threshold": np.array(self.threshold)} if self.threshold is not None else {}
        np.savez(
            content,
            allow_pickle=False,
            vectors=self.vectors,
            names=self.names.astype(str),
            output=np.array(self.output),
            model=np.array(self.model),
            **told,
        )
        write_bytes(path, content.getvalue())

    def require(self, path: Path, output: str, width: int, model: str) -> None:
        """Hold it against the model whose vectors it is to be held against.

        Raises:
            DataError: It is another model's.
        """
        if not len(self.names):
            return
        why = "a gallery belongs to the model that made it."
        fix = "make it anew with this bundle: edgemm index BUNDLE -d DATA."
        if self.vectors.shape[1] != width:
            raise DataError(f"'{path}' holds vectors of {self.vectors.shape[1]} numbers, '{output}' has {width}.", why=why, fix=fix)
        if self.model and self.model != model:
            raise DataError(f"'{path}' is a gallery of another model.", why=why, fix=fix)


def load(path: Path) -> Gallery:
    """A gallery from its file.

    Raises:
        DataError: It is none.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            vectors, names, output = file["vectors"], file["names"], str(file["output"])
            model = str(file["model"]) if "model" in file else ""
            threshold = float(file["threshold"]) if "threshold" in file else None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as err:
        raise DataError(f"'{path}' is no gallery.", why=f"{err}".rstrip(".") + ".", fix="make one: edgemm index BUNDLE -d DATA.") from err
    is_empty = not names.size and not vectors.size  # the last name was forgotten
    if not is_empty and (vectors.ndim != 2 or names.ndim != 1 or len(vectors) != len(names) or not np.isfinite(vectors).all()):
        raise DataError(f"'{path}' is no gallery.", why=f"it holds {vectors.shape} numbers for {len(names)} names.", fix="make it anew.")
    return Gallery(vectors.astype(np.float32), names, output, model, threshold)


def unit(vectors: np.ndarray) -> np.ndarray:
    """float32 rows of length 1."""
    rows = vectors.reshape(len(vectors), -1).astype(np.float32)
    units: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return units
