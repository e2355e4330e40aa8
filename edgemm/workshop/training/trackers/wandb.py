"""Weights & Biases: wandb:PROJECT, or wandb:ENTITY/PROJECT; WANDB_MODE=offline keeps the record here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgemm.contracts.modality import needing
from edgemm.contracts.tracker import Tracker, numbers_of
from edgemm.errors import OutputError


class Wandb(Tracker):
    """A run with curves by epoch, options as its configuration, final metrics as its summary."""

    def __init__(self, place: str) -> None:
        with needing("tracker 'wandb'"):
            import wandb
        self._begins = wandb.init
        self._entity, _, self._project = place.rpartition("/")

    def begin(self, name: str, options: Mapping[str, Any]) -> None:
        try:
            where = {"project": self._project, "entity": self._entity or None}
            self._run = self._begins(**where, name=name, config=dict(options), reinit="create_new")
        except Exception as err:  # of the network, of the account, of its own process
            why = str(err).splitlines()[0] if str(err) else type(err).__name__
            raise OutputError("Weights & Biases takes no record.", why=why, fix="run `wandb login`, or set WANDB_MODE=offline.") from err

    def epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=epoch)

    def end(self, metrics: Mapping[str, Mapping[str, Mapping[str, Any]]], files: Sequence[Path]) -> None:
        self._run.summary.update(numbers_of(metrics))
        self._run.finish()

    def fail(self) -> None:
        self._run.finish(exit_code=1)
