"""Answers of one session for a whole split, streamed to .npy files so that memory does not grow with the dataset."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from edgemm import card as cards
from edgemm.data import open_dataset
from edgemm.errors import MeasureError
from edgemm.targets._protocol import Session

TELL_SECONDS = 0.5  # how often progress is told


class NpyWriter:
    """A .npy file that grows along axis 0; numpy's header leaves room for the final row count.

    Raises:
        MeasureError: A row's shape or dtype differs from the first one's.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        self._rows = 0
        self._like: tuple[np.dtype, tuple[int, ...]] | None = None

    def append(self, array: np.ndarray) -> None:
        """Add ``array`` (rows, ...)."""
        if self._like is None:
            self._like = (array.dtype, array.shape[1:])
            self._file.write(self._header())
        if (array.dtype, array.shape[1:]) != self._like:
            raise MeasureError(
                f"'{self._path.stem}' changes its shape from row to row.",
                why=f"first {self._like[1]} {self._like[0]}, then {array.shape[1:]} {array.dtype}.",
                fix="outputs that are compared need one shape; fix the free axis when exporting.",
            )
        self._file.write(np.ascontiguousarray(array).tobytes())
        self._rows += len(array)

    def __enter__(self) -> NpyWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._like is not None:
            self._file.seek(0)
            self._file.write(self._header())
        self._file.close()

    def _header(self) -> bytes:
        assert self._like is not None
        dtype, shape = self._like
        text = io.BytesIO()
        facts = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (self._rows, *shape)}
        np.lib.format.write_array_header_1_0(text, facts)
        return text.getvalue()


def stream(
    session: Session,
    out: Path,
    *,
    data: str,
    card: Mapping[str, Any],
    card_path: str | None,
    split: str,
    batch_size: int,
    limit: int | None,
    skip_bad_rows: bool,
    progress: Callable[[Mapping[str, Any]], None],
) -> dict[str, Any]:
    """Write ``prediction.<output>.npy`` and ``truth.<output>.npy`` into ``out``.

    Returns:
        rows, the outputs answered, those with a truth, and the bad rows skipped.
    """
    parsed = cards.parse(dict(card), path=Path(card_path) if card_path else None)
    dataset = open_dataset(data, parsed, skip_bad_rows=skip_bad_rows)
    writers: dict[str, NpyWriter] = {}
    rows, told = 0, time.monotonic()
    try:
        for batch in dataset.batches(split, batch_size, limit=limit):
            answers = session.run(batch.inputs)
            named = {f"prediction.{key}": value for key, value in answers.items()} | {f"truth.{key}": v for key, v in batch.targets.items()}
            for key, array in named.items():
                if key not in writers:
                    writers[key] = NpyWriter(out / f"{key}.npy")
                writers[key].append(np.asarray(array))
            rows += len(batch.rows)
            if time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                progress({"progress": rows})
    finally:
        for writer in writers.values():
            writer.__exit__(None, None, None)
    return {"rows": rows, "files": sorted(writers), "bad_rows": list(dataset.bad_rows)}
