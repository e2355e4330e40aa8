"""Where a training stands: the epoch, the best weights, the curves; and the file that keeps it from one run to the next."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from edgemm.store.artifact import write_bytes

NEVER = (-math.inf, -math.inf)
"""The score of no weights at all."""


@dataclass
class LoopState:
    """Where the run is, and the best so far.

    Attributes:
        stage: Which stage it is in, from 0; ``began``: the epoch after which that began.
        early: Stages that ended before all of their epochs, counted from 1.
        shrunk: What schedule ``plateau`` leaves of the learning rate, in this stage; ``shrunk_at``: the epoch of its last change.
    """

    epoch: int = 0
    best_epoch: int = 0
    best_score: tuple[float, float] = NEVER
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    curves: dict[str, list[list[float]]] = field(default_factory=dict)
    stage: int = 0
    began: int = 0
    early: list[int] = field(default_factory=list)
    shrunk: float = 1.0
    shrunk_at: int = 0

    def draw(self, values: Mapping[str, float]) -> None:
        """Add a point at this epoch to each curve."""
        for name, value in values.items():
            self.curves.setdefault(name, []).append([float(self.epoch), value])

    def next_stage(self) -> None:
        """The epochs that follow are of the next stage."""
        self.stage, self.began, self.shrunk, self.shrunk_at = self.stage + 1, self.epoch, 1.0, self.epoch

    @property
    def unimproved(self) -> int:
        """Epochs of this stage since the last that was better than all before it."""
        return self.epoch - max(self.best_epoch, self.began)


def write(path: Path, key: str, state: LoopState, parts: Mapping[str, Any]) -> None:
    """Keep ``state`` and ``parts`` (the state of model, loss, optimizer, scaler) in a file, in one step."""
    run = {one.name: getattr(state, one.name) for one in fields(state) if one.name != "best"} | {"best_score": list(state.best_score)}
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
    return LoopState(**{**run, "best_score": tuple(run["best_score"])}, best=saved["best"]), saved["parts"]
