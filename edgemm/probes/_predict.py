"""A whole split through a candidate, in a process of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgemm.card import Card
from edgemm.probes._candidate import Candidate
from edgemm.probes._process import WorkerProcess


def predict(
    candidate: Candidate,
    data: str | Path,
    card: Card,
    split: str = "test",
    *,
    limit: int | None = None,
    skip_bad_rows: bool = False,
    limit_s: float = 600.0,
    progress: Callable[[int], None] | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Run a whole split through a candidate, in a process of its own.

    A deployed candidate runs at batch 1, the shape that ships; the torch original at batch 64.

    Args:
        limit: First rows only.
        progress: Called with the number of rows done.

    Returns:
        (output -> predictions, output -> truth), both (rows, ...); truth only for outputs that have labels. Memory-mapped, read-only.

    Raises:
        EdgemmError: What the worker raised; MeasureError when it crashed or hung.
    """
    with tempfile.TemporaryDirectory(prefix="edgemm-") as scratch, WorkerProcess(candidate.name) as worker:
        worker.ask("open", limit_s=limit_s, **candidate.opening(None))
        worker.ask(
            "predict", limit_s=limit_s, progress=progress, data=str(data), card=card.to_dict(),
            card_path=str(card.path) if card.path else None, split=split, batch_size=64 if candidate.target == "torch" else 1,
            limit=limit, out=scratch, skip_bad_rows=skip_bad_rows,
        )  # fmt: skip
        # the mapping outlives the file's name
        found = {path.stem: np.load(path, mmap_mode="r") for path in sorted(Path(scratch).glob("*.npy"))}
    predictions = {name.removeprefix("prediction."): array for name, array in found.items() if name.startswith("prediction.")}
    truth = {name.removeprefix("truth."): array for name, array in found.items() if name.startswith("truth.")}
    return predictions, truth
