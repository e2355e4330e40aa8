"""What of a training's options cannot be done to a card, found before any work."""

from __future__ import annotations

from edgemm.contracts import task as tasks
from edgemm.contracts.card import Card
from edgemm.errors import CardError, Collector, EdgemmError
from edgemm.workshop.training import loss as losses
from edgemm.workshop.training.options import TrainOptions


def check(card: Card, options: TrainOptions, *, changes: bool) -> None:
    """Hold the options against what the outputs are.

    Args:
        changes: Whether rows are augmented.

    Raises:
        CardError: Labels are to be weighed, smoothed or drawn evenly where there are none, or answers averaged that cannot be.
        Mistakes: Several of that.
    """
    mistakes = Collector()
    mistakes.errors += _of_labels(card, options)
    having = tasks.tasks(card)
    if options.balance and not having[options.balance].is_one_label:
        what = f"train.balance names '{options.balance}', whose rows do not have one label each."
        fix = "name a classification that is not per_step, or use class_weights."
        mistakes.add(CardError(what, why="rows are drawn by their label.", fix=fix))
    if options.repeats > 1:
        placed = next((name for name, task in having.items() if task.parts), None)
        if not changes:
            what = f"train.repeats is {options.repeats}, and no row is changed."
            mistakes.add(CardError(what, why="every answer would be the same.", fix="add augment, or take repeats out."))
        elif placed:
            what = f"train.repeats is {options.repeats}, and outputs.{placed} says where things are."
            mistakes.add(CardError(what, why="places in changed pictures have no mean.", fix="take repeats out."))
    mistakes.raise_if_any()


def _of_labels(card: Card, options: TrainOptions) -> list[EdgemmError]:
    weighing = [name for name in losses.trained_outputs(card) if losses.of(card.outputs[name]).weighs_labels]
    why = f"classification and multilabel are; of this card: {', '.join(weighing) or 'none'}."
    wrong: list[EdgemmError] = [
        CardError(f"train.class_weights.{name}: its task is not learned by labels.", why=why, fix=f"take {name} out of class_weights.")
        for name in options.class_weights
        if name not in weighing
    ]
    if options.label_smoothing and not weighing:
        what = f"train.label_smoothing is {options.label_smoothing:g}, and no output is learned by labels."
        wrong.append(CardError(what, why=why, fix="take label_smoothing out."))
    return wrong
