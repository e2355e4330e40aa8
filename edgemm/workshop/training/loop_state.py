"""Where a training stands: the epoch, the best weights, the curves; and the file that keeps it from one run to the next."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from edgemm.store.artifact import write_bytes


@dataclass
class LoopState:
    """Where the run is, and the best so far."""

    epoch: int = 0
    best_epoch: int = 0
    best_score: tuple[float, float] = (-math.inf, -math.inf)
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    curves: dict[str, list[list[float]]] = field(default_factory=dict)

    def draw(self, values: Mapping[str, float]) -> None:
        """Add a point at this epoch to each curve."""
        for name, value in values.items():
            self.curves.setdefault(name, []).append([float(self.epoch), value])


def write(path: Path, key: str, state: LoopState, parts: Mapping[str, Any]) -> None:
    """Keep ``state`` and ``parts`` (the state of model, loss, optimizer, scaler) in a file, in one step."""
    run = {"epoch": state.epoch, "best_epoch": state.best_epoch, "best_score": list(state.best_score), "curves": state.curves}
    file = io.BytesIO()
    torch.save({"key": key, "run": run, "best": state.best, "parts": dict(parts)}, file)
    write_bytes(path, file.getvalue())


def read(path: Path | None, key: str, note: Callable[[str], None]) -> tuple[LoopState, dict[str, Any]] | None:
    """What ``write`` kept under the same key; None, and a note where there is a file of another kind, else."""
    if path is None or not path.is_file():
        return None
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        note(f"{path} is damaged; the training starts anew.")
        return None
    if saved["key"] != key:
        note(f"{path} belongs to a run with other options, data or code; the training starts anew.")
        return None
    run = saved["run"]
    return LoopState(run["epoch"], run["best_epoch"], tuple(run["best_score"]), saved["best"], run["curves"]), saved["parts"]
