"""How sure an answer is, from 0 to 1: what a gate is judged by, the same when it is fitted and on the box."""

from __future__ import annotations

import numpy as np

from edgemm.contracts.card import Card
from edgemm.contracts.task import Arrays, tasks
from edgemm.data.labelled import Labelled

LEAST = 1e-300  # below it a chance has no logarithm


class Sureness:
    """How sure a model's answers are, over all heads that have labels: as sure as the least sure of them.

    Attributes:
        heads: Their names; where there are none nobody can tell.
    """

    def __init__(self, card: Card) -> None:
        self._tasks = {name: task for name, task in tasks(card).items() if isinstance(task, Labelled)}

    @property
    def heads(self) -> list[str]:
        return list(self._tasks)

    def of(self, criterion: str, answers: Arrays) -> np.ndarray:
        """float64 (rows,) of answers (rows, ...).

        Args:
            criterion: ``confidence``: the chance of the best label. ``margin``: that less the second best's. ``entropy``: one less the
                entropy over its most. Where labels do not exclude each other, of the label that is least clear. Of a series the step that
                is least sure counts.
        """
        return np.min([_of_head(task, criterion, np.asarray(answers[name], np.float64)) for name, task in self._tasks.items()], axis=0)  # type: ignore[no-any-return]

    def disagree(self, one: Arrays, other: Arrays) -> np.ndarray:
        """bool (rows,): whether two answers to the same rows decide otherwise in any of the heads; what was lost is never more."""
        apart = []
        for name, task in self._tasks.items():
            decided = [side > 0 if task.is_by_sign else side.argmax(-1) for side in (np.asarray(one[name]), np.asarray(other[name]))]
            apart.append((decided[0] != decided[1]).reshape(len(decided[0]), -1).any(axis=1))
        return np.any(apart, axis=0)  # type: ignore[no-any-return]


def _of_head(task: Labelled, criterion: str, logits: np.ndarray) -> np.ndarray:
    shares = task.shares(logits)
    if task.is_by_sign:
        shares = np.stack([shares, 1 - shares], axis=-1)
    if criterion == "confidence":
        sure = shares.max(-1)
    elif criterion == "margin":
        best = np.sort(shares, axis=-1)
        sure = best[..., -1] - best[..., -2] if shares.shape[-1] > 1 else best[..., -1]
    else:
        most = np.log(max(shares.shape[-1], 2))
        sure = 1 + (shares * np.log(np.maximum(shares, LEAST))).sum(-1) / most
    return sure.reshape(len(sure), -1).min(axis=1)  # type: ignore[no-any-return]
