"""How to train: options, their ranges, how long, and the learning rate over time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from edgemm.errors import TrainError

WARM_UP = 0.05  # of all steps, at most MAX_WARM_UP: enough for AdamW's second moments
MAX_WARM_UP = 500
LAST_SHARE = 0.01  # of the learning rate, at the end of the cosine
DROPS = (0.6, 0.85)  # of all steps: where schedule "step" divides the rate by ten
MOST_EPOCHS = 200  # of a small set: further passes taught it by heart
PATIENCE, PATIENCE_SHARE = 10, 0.25
"""Epochs without a better one on val after which a training stops: at least so many, and this share of all. (Of 147 passes over 1,050 rows
of the digits that is 37; each of the 9th, the 15th and the 42nd was better than all before it, none after.)"""


@dataclass(frozen=True)
class Length:
    """How long to train when nobody says: ``epochs`` passes, over a small set as many as make ``steps``, at most ``MOST_EPOCHS``."""

    epochs: int
    steps: int


TRAIN = Length(20, 2400)
"""From fresh weights: what the two real sets of the tests need (5,000 and 35,000 rows)."""
DISTILL = Length(5, 2400)
"""A pruned model: 15 passes over 1,050 rows (255 steps) left a gated model with half of its work 4.5 points behind, 100 passes 1.2."""
QAT = Length(3, 600)
"""Weights that are good, and have to settle on a grid; a step takes three times as long as in float."""


@dataclass(frozen=True)
class TrainOptions:
    """How to train.

    Attributes:
        epochs: Passes over the train split; None = as ``steps`` or ``usual`` say.
        steps: Batches to learn from, rounded up to whole passes; instead of ``epochs``.
        accumulate: Batches whose gradients, on average, make one step of the optimizer.
        patience: Stop after so many epochs without a better one on val; None = a quarter of all, at least 10; 0 = never.
        loss_weights: Output -> factor of its loss.
        device: auto, cpu, cuda, mps.
        mixed_precision: no, bf16, fp16.
        usual: The length where neither ``epochs`` nor ``steps`` is given.
    """

    epochs: int | None = None
    steps: int | None = None
    batch_size: int = 64
    accumulate: int = 1
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "step"] = "cosine"
    weight_decay: float = 0.01
    patience: int | None = None
    loss_weights: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    device: str = "auto"
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    usual: Length = TRAIN

    def check(self, called: str = "") -> None:
        """Raises TrainError naming the first option that cannot be, with ``called`` in front of its name."""
        wrong = {
            "epochs": self.epochs is not None and self.epochs < 1,
            "steps": self.steps is not None and self.steps < 1,
            "batch_size": self.batch_size < 2,
            "accumulate": self.accumulate < 1,
            "learning_rate": not 0 < self.learning_rate < math.inf,
            "schedule": self.schedule not in ("cosine", "step"),
            "weight_decay": not 0 <= self.weight_decay < math.inf,
            "patience": self.patience is not None and self.patience < 0,
            "loss_weights": not all(0 <= weight < math.inf for weight in self.loss_weights.values()),
            "mixed_precision": self.mixed_precision not in ("no", "bf16", "fp16"),
        }
        for name in (name for name, is_wrong in wrong.items() if is_wrong):
            raise TrainError(f"{called}{name} is {getattr(self, name)!r}.", fix=RANGES[name])
        if self.epochs is not None and self.steps is not None:
            raise TrainError(f"{called}epochs and {called}steps are both given.", why="each says how long to train.", fix="keep one.")

    def passes(self, steps_each: int) -> int:
        """How many passes over a train split of ``steps_each`` batches that makes."""
        if self.epochs is not None:
            return self.epochs
        if self.steps is not None:
            return math.ceil(self.steps / steps_each)
        return min(MOST_EPOCHS, max(self.usual.epochs, math.ceil(self.usual.steps / steps_each)))

    def patience_of(self, epochs: int) -> int | None:
        """Epochs without a better one after which a training of ``epochs`` stops; None = never."""
        if self.patience is None:
            return max(PATIENCE, math.ceil(PATIENCE_SHARE * epochs))
        return self.patience or None


RANGES = {
    "epochs": "write at least 1.",
    "steps": "write at least 1.",
    "batch_size": "write at least 2: batch norm and contrastive losses need other rows beside them.",
    "accumulate": "write at least 1; 4 makes a step of four batches.",
    "learning_rate": "write a number above 0, such as 0.001.",
    "schedule": "write cosine or step.",
    "weight_decay": "write a number of at least 0, such as 0.01.",
    "patience": "write at least 1 epoch, 0 for never, or leave it out.",
    "loss_weights": "write numbers of at least 0.",
    "mixed_precision": "write no, bf16 or fp16.",
}


def learning_rate(options: TrainOptions, step: int, steps: int) -> float:
    """The rate at ``step`` of ``steps``: a linear warm-up, then half a cosine down to 1%, or two drops to a tenth."""
    warm_up = min(MAX_WARM_UP, int(WARM_UP * steps))
    if step < warm_up:
        return options.learning_rate * (step + 1) / warm_up
    if options.schedule == "step":
        return options.learning_rate * 0.1 ** sum(step >= drop * steps for drop in DROPS)
    done = (step - warm_up) / max(1, steps - warm_up)
    return options.learning_rate * (LAST_SHARE + (1 - LAST_SHARE) * (1 + math.cos(math.pi * done)) / 2)
