"""The sum of the outputs' own losses, by which ``train`` trains; and what a loss is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from edgemm.contracts import task as tasks
from edgemm.contracts.card import Card
from edgemm.errors import CardError, nearest
from edgemm.workshop.training import loss as losses


@dataclass(frozen=True)
class Tensors:
    """A ``data.Batch`` on the training device: same fields, tensors instead of arrays."""

    inputs: dict[str, Tensor]
    truth: dict[str, Tensor]
    present: dict[str, Tensor]
    rows: Tensor


LossHook = Callable[[Mapping[str, Tensor], Tensors], Mapping[str, Tensor]]
"""Outputs by name and the batch -> parts of the loss by name; the loop minimises their sum."""


def check_weights(card: Card, weights: Mapping[str, float]) -> None:
    """Raises CardError where a weight is for no output of the card."""
    for name in weights:
        if name not in card.outputs:
            raise CardError(f"a loss weight names '{name}', no output of this model.", fix=nearest(name, card.outputs))


class TaskLosses:
    """The weighted sum of the outputs' losses, each as its task's file in ``losses/`` has it.

    Args:
        weights: Output name -> factor; 1 where not named.
        deviations: Output that is a measurement -> standard deviation of its truth in train.
        class_weights: Output -> what each of its labels counts.
        smoothing: Share of the truth that is given to the other labels, of outputs that have some.

    Raises:
        CardError: A weight for no output, or no output that has a loss.
    """

    def __init__(
        self, card: Card, *, weights: Mapping[str, float] | None = None, deviations: Mapping[str, float] | None = None,
        class_weights: Mapping[str, Tensor] | None = None, smoothing: float = 0.0,
    ) -> None:  # fmt: skip
        self._weights = dict(weights or {})
        check_weights(card, self._weights)
        scales = deviations or {}
        self._losses = {name: losses.of(card.outputs[name], deviation=scales.get(name, 1.0)) for name in losses.trained_outputs(card)}
        self._reads = {name: tasks.of(loss.output).reads for name, loss in self._losses.items()}
        for name, loss in self._losses.items():
            loss.label_weights, loss.smoothing = (class_weights or {}).get(name), smoothing
        for output in card.outputs.values():
            if output.auxiliary and output.name not in self._losses:
                fix = "take 'auxiliary' out of the card, or give the output a task that is learned."
                raise CardError(f"outputs.{output.name}.auxiliary: task '{output.task}' has no loss to weigh.", fix=fix)
        if not self._losses:
            raise CardError(
                "no output of this card can be trained.",
                why="a tensor, and an embedding without a pair, have no loss.",
                fix="give one output a task: classification, multilabel, regression, or embedding with `pair: <other output>`.",
            )

    def __call__(self, outputs: Mapping[str, Tensor], batch: Tensors) -> dict[str, Tensor]:
        """One weighted part an output, and one for each auxiliary answer to it: scalar tensors."""
        answers = {name: answer.float() for name, answer in outputs.items()}
        parts: dict[str, Tensor] = {}
        for name, loss in self._losses.items():
            truth, factor = batch.truth.get(name), self._weights.get(name, 1.0)
            parts[name] = factor * loss.supervised(answers, truth)
            for key, weight in loss.output.auxiliary.items():
                named = {read: loss.output.auxiliary_name(key, read) for read in self._reads[name]}
                if answers.keys() >= {*named.values()}:  # in training only
                    auxiliary = {read: answers[beside] for read, beside in named.items()}
                    parts[loss.output.auxiliary_name(key)] = factor * weight * loss.supervised({**answers, **auxiliary}, truth)
        return parts
