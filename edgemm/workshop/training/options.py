"""How to train: options, their ranges, and how long."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from edgemm.contracts.train_section import CHOICES, choice, out_of_range
from edgemm.contracts.training import ADAMW, COSINE, Choice, Stage
from edgemm.errors import Collector, TrainError

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
        schedule: Its name, or with its numbers; so too ``optimizer`` and ``average``.
        accumulate: Batches whose gradients, on average, make one step of the optimizer.
        patience: Stop after so many epochs without a better one on val; None = a quarter of all, at least 10; 0 = never.
        loss_weights: Output -> factor of its loss.
        class_weights: Output -> ``balanced``, or label -> factor.
        balance: The output whose labels are to be equally frequent in an epoch.
        label_smoothing: Share of the truth that is given to the other labels.
        average: ``ema`` or ``swa``: what is judged and kept is a running mean of the weights.
        stages: One after the other, each from the best weights so far; () = one, in which everything is trained.
        augment: Input -> names and options of augmentations, in the order of application.
        modality_dropout: Input or modality -> chance of being taken away; a number is for all.
        mixup: Alpha of the Beta distribution by which rows are mixed in pairs; 0 = not at all.
        repeats: How often a row of test is answered, changed as in training.
        device: auto, cpu, cuda, mps.
        mixed_precision: no, bf16, fp16.
        usual: The length where neither ``epochs`` nor ``steps`` is given.
    """

    epochs: int | None = None
    steps: int | None = None
    batch_size: int = 64
    accumulate: int = 1
    learning_rate: float = 1e-3
    optimizer: str | Choice = ADAMW
    schedule: str | Choice = COSINE
    weight_decay: float = 0.01
    patience: int | None = None
    loss_weights: Mapping[str, float] = field(default_factory=dict)
    class_weights: Mapping[str, Any] = field(default_factory=dict)
    balance: str | None = None
    label_smoothing: float = 0.0
    average: Choice | None = None
    stages: Sequence[Stage] = ()
    augment: Mapping[str, Sequence[Sequence[Any]]] = field(default_factory=dict)
    modality_dropout: float | Mapping[str, float] = 0.0
    mixup: float = 0.0
    repeats: int = 1
    seed: int = 0
    device: str = "auto"
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    usual: Length = TRAIN

    @classmethod
    def of(cls, section: Mapping[str, Any], **given: Any) -> TrainOptions:
        """The options of a ``train`` section that was checked, and what somebody gives beside and instead of them.

        Raises:
            TrainError: ``epochs`` or ``steps`` is given beside stages.
        """
        given = {name: value for name, value in given.items() if value is not None}
        length = next((name for name in ("epochs", "steps") if section.get("stages") and name in given), None)
        if length:
            fix = f"leave {length} out, or write it in each stage."
            raise TrainError(f"{length} is given, and the card's training has stages.", why="each stage says how long it is.", fix=fix)
        without = {"epochs", "steps"} if {"epochs", "steps"} & given.keys() else set()  # a length replaces the other kind too
        without |= {"search"}
        values = {name: value for name, value in section.items() if name not in without and value is not None} | given
        for name, known in CHOICES.items():
            if name in values:
                values[name] = choice(values[name], known, name, TrainError)[0] or values[name]
        return cls(**{**values, "stages": tuple(Stage(**stage) for stage in values.get("stages", ()))})

    def check(self, called: str = "") -> None:
        """Look for options that cannot be.

        Args:
            called: Stands in front of their names.

        Raises:
            TrainError: One of them.
            Mistakes: Several.
        """
        mistakes = Collector()
        mistakes.errors += out_of_range(dataclasses.asdict(self), called, TrainError)
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if isinstance(value, str) and value not in known:
                mistakes.add(TrainError(f"{called}{name} is '{value}'.", fix=f"write one of: {', '.join(known)}."))
        mistakes.raise_if_any()

    def chosen(self, name: str) -> Choice:
        """``optimizer`` or ``schedule`` with its numbers."""
        value = getattr(self, name)
        if isinstance(value, Choice):
            return value
        whole, _ = choice(value, CHOICES[name], name, TrainError)
        assert whole is not None  # ``check`` looked
        return whole

    def planned(self) -> Sequence[Stage]:
        """The stages, or the one that the whole training is."""
        return self.stages or (Stage(epochs=self.epochs, steps=self.steps),)

    def passes(self, steps_each: int, stage: Stage | None = None) -> int:
        """How many passes over a train split of ``steps_each`` batches the training is, or one of its stages."""
        length = stage or self
        if length.epochs is not None:
            return length.epochs
        if length.steps is not None:
            return math.ceil(length.steps / steps_each)
        return min(MOST_EPOCHS, max(self.usual.epochs, math.ceil(self.usual.steps / steps_each)))

    def patience_of(self, epochs: int) -> int | None:
        """Epochs without a better one after which a training of ``epochs`` stops; None = never."""
        if self.patience is None:
            return max(PATIENCE, math.ceil(PATIENCE_SHARE * epochs))
        return self.patience or None
