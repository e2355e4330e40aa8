"""A training step whose loss is no number: what the user is told, and where the last good weights are."""

from __future__ import annotations

import contextlib

from edgemm.errors import EdgemmError
from edgemm.store import cache
from edgemm.workshop.models.checkpoint import loading
from edgemm.workshop.training.loop import Diverged


def reported(err: Diverged, step: str, *, option: str = "learning_rate") -> Diverged:
    """The error with the step's name in front, after the weights of its best epoch were written beside the cache.

    Weights from before the first epoch are not written: they are those that the step was given.
    """
    why = err.why
    if err.kept is not None and err.best_epoch:
        card = err.kept.card
        folder = cache.root() / "last_good" / f"{step}-{card.folder.name}"
        with contextlib.suppress(EdgemmError):  # a model that cannot be saved is still in the error's ``kept``
            loading.save_model(err.kept, folder)
            why = f"the training diverged; the best weights so far (epoch {err.best_epoch}) are in {folder}."
    told = Diverged(f"{step}: {err.what}", why=why, fix=f"lower {step}.{option}, or look for inputs of extreme size in the data.")
    told.best_epoch, told.kept = err.best_epoch, err.kept
    return told
