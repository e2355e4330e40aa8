"""Who said it: the Shapley shares of the inputs that voted, in the score of what is told."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgemm.box.bundle.opened import Bundle
from edgemm.box.serving.model import Model
from edgemm.contracts import task as tasks
from edgemm.contracts.decision import Observation
from edgemm.contracts.joint import subsets
from edgemm.data.labelled import Labelled
from edgemm.data.shares import MOST_INPUTS, shapley
from edgemm.errors import RunError

Said = Mapping[tuple[str, ...], Mapping[str, Observation]]
"""Inputs that are there -> output -> what these say."""


class Sharing:
    """Shares for a bundle on one of its targets.

    Raises:
        RunError: Its inputs cannot be left out one by one, or are too many.
    """

    def __init__(self, bundle: Bundle, model: Model) -> None:
        if not model.in_parts:
            raise RunError(
                "there are no shares of inputs.",
                why="this bundle runs as a whole, and shares are what is answered with inputs left out.",
                fix="remove shares (and whole, where it is set) from run.yaml, or compress again to a bundle in parts.",
            )
        if len(model.inputs) > MOST_INPUTS:
            raise RunError(
                f"there are no shares of {len(model.inputs)} inputs.",
                why=f"each event would take {2 ** len(model.inputs) - 1} answers; {MOST_INPUTS} inputs take {2**MOST_INPUTS - 1}.",
                fix="remove shares from run.yaml.",
            )
        self._usual = _usual(bundle, model.target)

    @staticmethod
    def subsets(voted: tuple[str, ...]) -> list[tuple[str, ...]]:
        """What has to be asked."""
        return subsets(voted)

    def of(self, scores: Mapping[tuple[str, ...], float], voted: tuple[str, ...], output: str, label: str) -> dict[str, float]:
        """Input -> its share in the score of a label; {} where a subset has no answer.

        Args:
            scores: That score by each of ``subsets``.
        """
        if len(scores) < 2 ** len(voted) - 1:
            return {}
        values = {subset: np.array([value]) for subset, value in {**scores, (): self._usual.get((output, label), 0.0)}.items()}
        return dict(zip(voted, shapley(values, voted)[0].tolist(), strict=True))


def _usual(bundle: Bundle, target: str) -> dict[tuple[str, str], float]:
    """Output and label -> the score it gets on average: on the test rows, or of a slim bundle without them on the golden samples."""
    reference, golden = bundle.reference(), bundle.golden()
    answers = reference.predictions if reference else golden.outputs.get(target, {}) if golden else {}
    usual: dict[tuple[str, str], float] = {}
    for name, task in tasks.tasks(bundle.card).items():
        if isinstance(task, Labelled) and task.labels and name in answers:
            logits = np.asarray(answers[name], np.float64)
            scores = task.shares(logits[..., -1, :] if task.per_step else logits).reshape(-1, len(task.labels)).mean(0)
            usual |= {(name, label): float(score) for label, score in zip(task.labels, scores, strict=True)}
    return usual
