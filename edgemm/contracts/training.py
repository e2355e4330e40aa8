"""How a model is trained, as a card's ``train`` section or a train.yaml says it: plain values with their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Numbers = Mapping[str, tuple[float, float, float]]
"""Option -> its default, the least it may be, and what it must stay below."""
OPTIMIZERS: Mapping[str, Numbers] = {
    "adamw": {"beta1": (0.9, 0.0, 1.0), "beta2": (0.999, 0.0, 1.0)},
    "adam": {"beta1": (0.9, 0.0, 1.0), "beta2": (0.999, 0.0, 1.0)},
    "sgd": {"momentum": (0.9, 0.0, 1.0)},
    "adagrad": {"lr_decay": (0.0, 0.0, 1.0)},
    "rmsprop": {"alpha": (0.99, 0.0, 1.0), "momentum": (0.0, 0.0, 1.0)},
}
SCHEDULES: Mapping[str, Numbers] = {
    "cosine": {"last": (0.01, 0.0, 1.0)},
    "step": {"factor": (0.1, 0.0, 1.0)},
    "plateau": {"factor": (0.3, 0.0, 1.0), "patience": (5, 1, 1000)},
    "one-cycle": {"rise": (0.3, 0.01, 1.0), "last": (1e-4, 0.0, 1.0)},
}
AVERAGES: Mapping[str, Numbers] = {"ema": {"decay": (0.999, 0.0, 1.0)}, "swa": {"start": (0.75, 0.0, 1.0)}}
BALANCED = "balanced"


@dataclass(frozen=True)
class Choice:
    """One of several ways, by name, with all of its numbers."""

    name: str
    numbers: Mapping[str, float] = field(default_factory=dict)


ADAMW, COSINE, STEP = (
    Choice(name, {key: default for key, (default, _, _) in known[name].items()})
    for name, known in (("adamw", OPTIMIZERS), ("cosine", SCHEDULES), ("step", SCHEDULES))
)


@dataclass(frozen=True)
class Stage:
    """A part of a training in which some of the model stands still.

    Attributes:
        freeze: Inputs, modalities, ``fusion``, ``head`` or ``head:<output>`` that are not trained.
        epochs: Passes over the train split.
        steps: Batches, instead of ``epochs``.
        learning_rate: At its highest; the training's own where it is not given.
    """

    freeze: list[str] = field(default_factory=list)
    epochs: int | None = None
    steps: int | None = None
    learning_rate: float | None = None


@dataclass(frozen=True)
class Section:
    """The section's options; ``optimizer``, ``schedule`` and ``average`` are a name, or ``{name: {option: number}}``.

    Attributes:
        epochs: Passes over the train split.
        steps: Batches to learn from, in whole passes, instead of ``epochs``.
        batch_size: Rows of a batch.
        accumulate: Batches whose gradients make one step.
        learning_rate: At its highest.
        optimizer: adamw, adam, sgd, adagrad or rmsprop.
        schedule: How the learning rate falls: cosine, step, plateau or one-cycle.
        weight_decay: Of weights; biases and norms have none.
        patience: Stop after so many epochs without a better one on val; 0: never.
        loss_weights: Output -> factor of its loss.
        class_weights: Output -> ``balanced``, or label -> factor.
        balance: The output whose labels are to be equally frequent among the rows of an epoch.
        label_smoothing: Share of the truth that is given to the other labels.
        average: ema or swa: the weights that are judged and kept are a running mean.
        stages: One after the other, each from the best weights so far.
        augment: Input or modality -> augmentations.
        modality_dropout: Chance of each input of a row to be taken away; one for all, or input -> chance.
        mixup: Rows are mixed in pairs; the larger, the more evenly.
        search: What ``edgemm search --train`` varies (``train_search``).
        repeats: Test rows are answered so often, changed as in training, and the answers averaged.
        seed: Of every random choice.
        mixed_precision: Compute in 16 bits where that is safe.
    """

    epochs: int | None = None
    steps: int | None = None
    batch_size: int = 64
    accumulate: int = 1
    learning_rate: float = 1e-3
    optimizer: str | dict[str, Any] = "adamw"
    schedule: str | dict[str, Any] = "cosine"
    weight_decay: float = 0.01
    patience: int | None = None
    loss_weights: dict[str, float] = field(default_factory=dict)
    class_weights: dict[str, Any] = field(default_factory=dict)
    balance: str | None = None
    label_smoothing: float = 0.0
    average: str | dict[str, Any] | None = None
    stages: list[Any] = field(default_factory=list)
    augment: dict[str, Any] = field(default_factory=dict)
    modality_dropout: float | dict[str, float] = 0.0
    mixup: float = 0.0
    repeats: int = 1
    search: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
