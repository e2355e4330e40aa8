"""A student's features beside its teacher's: which of them can be compared, and the hooks that listen to both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from edgemm.errors import TrainError
from edgemm.workshop.models.feature_taps import Ends, Taps, find_ends
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.models.torch_branches import selected
from edgemm.workshop.models.tried import evaluating, sample_inputs
from edgemm.workshop.training.distillation import comparable

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Pair:
    """Both models listened to at the same places.

    Attributes:
        weights: Tap -> weight of its feature loss; taps that are not named serve the relations alone.
        student_shapes, teacher_shapes: Tap -> shape of one sample.
    """

    student: Taps
    teacher: Taps
    weights: Mapping[str, float]
    student_shapes: Shapes
    teacher_shapes: Shapes

    def close(self) -> None:
        """Stop listening to both."""
        self.student.close()
        self.teacher.close()


def pair(
    student: FusedModel,
    teacher: FusedModel,
    features: Mapping[str, float],
    note: Callable[[str], None],
    *,
    ends: Ends | None = None,
    relations: bool = False,
) -> Pair | None:
    """Listen where ``features`` asks, and for ``relations`` wherever both models can be listened to; None where nothing is left.

    What cannot be compared is left out with a note.

    Args:
        features: Branch selector -> weight.
        ends: The student's, where they are known already.

    Raises:
        ExportError: torch.export refuses one of the models.
        TrainError: A selector that means a head.
        EdgemmError: A selector that is no part of the student.
    """
    ours, theirs = ends or find_ends(student), find_ends(teacher)
    weights = _weights(ours, student, features, note)
    names = [name for name in ours.features if name in weights or relations]
    for name in [name for name in names if name not in theirs.features]:
        note(f"the teacher has no submodule that ends where '{name}' does; it is not compared there.")
    names = [name for name in names if name in theirs.features]
    student_shapes, teacher_shapes = _shapes(student, ours, names), _shapes(teacher, theirs, names)
    for name in names:
        one, other = student_shapes.get(name), teacher_shapes.get(name)
        if one is None or other is None:
            note(f"'{name}' is not compared: the first axis of its tensor does not count samples.")
        elif name in weights and not comparable(one, other):
            note(f"the features of '{name}' are not compared: a sample has shape {one} in the student and {other} in the teacher.")
    names = [name for name in names if name in student_shapes and name in teacher_shapes]
    alike = [name for name in names if comparable(student_shapes[name], teacher_shapes[name])]
    names = names if relations else alike
    if not names:
        return None
    return Pair(
        Taps(student, {name: ours.features[name] for name in names}),
        Taps(teacher, {name: theirs.features[name] for name in names}),
        {name: weight for name, weight in weights.items() if name in alike},
        student_shapes,
        teacher_shapes,
    )


def _weights(ends: Ends, student: FusedModel, features: Mapping[str, float], note: Callable[[str], None]) -> dict[str, float]:
    """Tap -> weight; a selector's weight is that of every branch it means."""
    weights: dict[str, float] = {}
    for selector, weight in features.items():
        if selector == "head" or selector.startswith("head:"):
            raise TrainError(
                f"distill: features names '{selector}'.",
                why="a head ends in an output; that is learned by logits_weight.",
                fix="name inputs, modalities or fusion.",
            )
        for branch in selected(ends.parts, selector, student.card):
            taps = [tap for tap, part in ends.part.items() if part == branch]
            weights |= dict.fromkeys(taps, weight)
            if not taps:
                note(f"the features of '{branch}' are not compared: no submodule of the student returns its last tensor.")
    return weights


def _shapes(model: FusedModel, ends: Ends, names: list[str]) -> Shapes:
    """Tap -> shape of one sample; taps whose first axis does not count samples (or steps of samples) are left out."""
    taps = Taps(model, {name: ends.features[name] for name in names})
    heard: list[Shapes] = []
    try:
        for rows in (2, 3):
            with evaluating(model), torch.no_grad():
                model(sample_inputs(model.card, batch=rows))
            heard.append({name: tuple(tensor.shape) for name, tensor in taps.heard.items()})
    finally:
        taps.close()
    two, three = heard
    good = [name for name in names if 3 * two[name][0] == 2 * three[name][0] and two[name][1:] == three[name][1:]]
    return {name: two[name][1:] if two[name][0] == 2 else (two[name][0] // 2, *two[name][1:]) for name in good}
