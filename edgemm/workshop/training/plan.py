"""How to train: options, their ranges, and the learning rate over time."""

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
EPOCHS, STEPS = 20, 2400  # at least, where epochs is None: what the two real sets of the tests need (5,000 and 35,000 rows)


@dataclass(frozen=True)
class Plan:
    """How to train.

    Attributes:
        epochs: Passes over the train split; None = ``default_epochs`` of its rows.
        patience: Stop after so many epochs without a better one on val; None = never.
        loss_weights: Output -> factor of its loss.
        device: auto, cpu, cuda, mps.
        mixed_precision: no, bf16, fp16.
    """

    epochs: int | None = None
    batch_size: int = 64
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "step"] = "cosine"
    weight_decay: float = 0.01
    patience: int | None = None
    loss_weights: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    device: str = "auto"
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"

    def check(self, called: str = "") -> None:
        """Raises TrainError naming the first option that cannot be, with ``called`` in front of its name."""
        wrong = {
            "epochs": self.epochs is not None and self.epochs < 1,
            "batch_size": self.batch_size < 2,
            "learning_rate": not 0 < self.learning_rate < math.inf,
            "schedule": self.schedule not in ("cosine", "step"),
            "weight_decay": not 0 <= self.weight_decay < math.inf,
            "patience": self.patience is not None and self.patience < 1,
            "loss_weights": not all(0 <= weight < math.inf for weight in self.loss_weights.values()),
            "mixed_precision": self.mixed_precision not in ("no", "bf16", "fp16"),
        }
        for name in (name for name, is_wrong in wrong.items() if is_wrong):
            raise TrainError(f"{called}{name} is {getattr(self, name)!r}.", fix=RANGES[name])


RANGES = {
    "epochs": "write at least 1.",
    "batch_size": "write at least 2: batch norm and contrastive losses need other rows beside them.",
    "learning_rate": "write a number above 0, such as 0.001.",
    "schedule": "write cosine or step.",
    "weight_decay": "write a number of at least 0, such as 0.01.",
    "patience": "write at least 1 epoch, or leave it out.",
    "loss_weights": "write numbers of at least 0.",
    "mixed_precision": "write no, bf16 or fp16.",
}


def default_epochs(rows: int, batch_size: int) -> int:
    """How often to go through a train split of ``rows`` when nobody says: ``EPOCHS`` times, a small one until ``STEPS`` are taken."""
    return min(200, max(EPOCHS, math.ceil(STEPS * batch_size / rows)))


def learning_rate(plan: Plan, step: int, steps: int) -> float:
    """The rate at ``step`` of ``steps``: a linear warm-up, then half a cosine down to 1%, or two drops to a tenth."""
    warm_up = min(MAX_WARM_UP, int(WARM_UP * steps))
    if step < warm_up:
        return plan.learning_rate * (step + 1) / warm_up
    if plan.schedule == "step":
        return plan.learning_rate * 0.1 ** sum(step >= drop * steps for drop in DROPS)
    done = (step - warm_up) / max(1, steps - warm_up)
    return plan.learning_rate * (LAST_SHARE + (1 - LAST_SHARE) * (1 + math.cos(math.pi * done)) / 2)
