"""How a training ends: what came of it, or that it diverged."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgemm.errors import EdgemmError, TrainError
from edgemm.store import cache
from edgemm.workshop.models.checkpoint.loading import save_model
from edgemm.workshop.models.fused import FusedModel


class Diverged(TrainError):
    """The loss or a gradient is no number; ``best_epoch`` is 0 where no epoch had ended yet.

    ``kept`` is the model with the best weights so far, where there are any.
    """

    best_epoch = 0
    kept: FusedModel | None = None

    def of(self, step: str, *, option: str = "learning_rate") -> Diverged:
        """The error with the step's name in front, after the weights of its best epoch were written beside the cache.

        Weights from before the first epoch are not written: they are those that the step was given.
        """
        why = self.why
        if self.kept is not None and self.best_epoch:
            folder = cache.root() / "last_good" / f"{step}-{self.kept.card.folder.name}"
            with contextlib.suppress(EdgemmError):  # a model that cannot be saved is still in ``kept``
                save_model(self.kept, folder)
                why = f"the training diverged; the best weights so far (epoch {self.best_epoch}) are in {folder}."
        error = Diverged(f"{step}: {self.what}", why=why, fix=f"lower {step}.{option}, or look for inputs of extreme size in the data.")
        error.best_epoch, error.kept = self.best_epoch, self.kept
        return error


@dataclass(frozen=True)
class Trained:
    """What came of it; the model itself holds the best weights.

    Attributes:
        curves: Series -> [[epoch, value], ...].
        metrics: Output -> its metrics on val, with the best weights.
        best_epoch: Counted from 1; 0 where the weights it started from were better than all that followed (``judge_start``).
        epochs: How many were trained.
        planned: How many there would have been without early stopping.
        goodness: Mean of the guarded metrics on val with the best weights, 1 at best; NaN without val.
        stages: How many stages they were in; ``early``: those that ended before all of their epochs, counted from 1.
        is_main: False in all but the first process of a run of several; only the first writes files.
    """

    curves: dict[str, list[list[float]]]
    metrics: dict[str, dict[str, Any]]
    best_epoch: int
    epochs: int
    planned: int
    is_main: bool = True
    stages: int = 1
    early: Sequence[int] = ()
    goodness: float = math.nan

    @property
    def ended(self) -> str:
        """When it ended, and why, in words."""
        if self.epochs >= self.planned:
            return f"after all {self.planned} epochs"
        if self.stages > 1:
            numbers = " and ".join(map(str, self.early))
            return f"after epoch {self.epochs} of {self.planned}: no better one came on val in stage{'s' * (len(self.early) > 1)} {numbers}"
        return f"after epoch {self.epochs} of {self.planned}: {self.epochs - self.best_epoch} without a better one on val"

    def facts(self) -> dict[str, Any]:
        """What a step tells of its training."""
        return {"best_epoch": self.best_epoch, "epochs": self.epochs, "ended": self.ended, "curves": self.curves}
