"""What of an answer is explained: how strongly it says a label, or its number; and how far two maps of that agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgemm.contracts.task import Arrays, Task
from edgemm.data.labelled import Labelled
from edgemm.errors import EdgemmError, nearest

USUAL_ROWS = 200
"""Rows behind what is said on average of a task whose answers are read one by one."""
FLAT = 0.01
"""Differences below this part of a map's largest are ties: what INT8 rounds would else be half of the ranks."""
LEAST_ODDS = 0.02
"""So are those below this in log-odds: half a point of a chance at most."""
LOG_ODDS = "log-odds"


@dataclass(frozen=True)
class Question:
    """One output, and the label of it that is explained ("" where it is a number)."""

    task: Task
    label: str = ""

    @classmethod
    def about(cls, task: Task, answer: Arrays, label: str | None = None) -> Question | None:
        """The label asked for, else the one that an answer decides for; None where the answer says nothing that people could read.

        Raises:
            EdgemmError: The output has no such label.
        """
        seen = task.read(answer)
        if seen is None or (seen.value is None and not seen.scores):
            return None
        if not seen.scores:
            return cls(task)
        if label is not None and label not in seen.scores:
            raise EdgemmError(f"'{task.name}' has no label '{label}'.", fix=nearest(label, seen.scores))
        return cls(task, label or max(seen.scores, key=seen.scores.__getitem__))

    @property
    def unit(self) -> str:
        """Of ``strength``."""
        if isinstance(self.task, Labelled):
            return LOG_ODDS
        return "score" if self.label else str(getattr(self.task, "unit", None) or "")

    @property
    def least(self) -> float:
        """What is nothing in it."""
        return LEAST_ODDS if self.unit == LOG_ODDS else 0.0

    @property
    def place(self) -> int | None:
        """Which logit is the label's; None where it has none."""
        if not isinstance(self.task, Labelled):
            return None
        return self.task.labels.index(self.label) if self.task.labels else int(self.label)

    def value(self, answer: Arrays) -> float:
        """The label's chance or score, or the number, in the answer to one row."""
        seen = self.task.read(answer)
        assert seen is not None  # ``about`` has seen that it can be read
        return float((seen.scores or {})[self.label]) if self.label else float(seen.value or 0.0)

    def strength(self, answer: Arrays) -> float:
        """The same where it does not level off: of a label's chance p its log-odds, log p / (1 - p)."""
        task, place = self.task, self.place
        if not isinstance(task, Labelled) or place is None:
            return self.value(answer)
        logits = np.atleast_1d(np.asarray(answer[task.name], np.float64)[0])
        logits = logits[-1] if task.per_step else logits
        if task.is_by_sign:
            return float(logits[place])
        others = np.delete(logits, place)
        return float(logits[place] - np.logaddexp.reduce(others)) if len(others) else float(logits[place])

    def decision(self, answer: Arrays) -> str:
        """What an answer decides for, in words."""
        seen = self.task.read(answer)
        assert seen is not None  # as above
        if seen.scores:
            return max(seen.scores, key=seen.scores.__getitem__)
        return f"{seen.value:.4g}{f' {seen.unit}' if seen.unit else ''}"

    def usual(self, answers: Arrays | None) -> float:
        """The mean of ``value`` over rows; 0 where there are none."""
        if answers is None or any(name not in answers for name in self.task.reads):
            return 0.0
        count = len(answers[self.task.reads[0]])
        chosen = np.unique(np.linspace(0, count - 1, min(count, USUAL_ROWS)).astype(np.int64))
        rows = ({name: answers[name][row : row + 1] for name in self.task.reads} for row in chosen)
        return float(np.mean([self.value(row) for row in rows])) if count else 0.0


def agreement(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], *, least: float = 0.0) -> float | None:
    """Spearman's rank correlation of two sets of maps, as Adebayo et al. (2018) compare saliency; None where one is flat.

    Args:
        ours, theirs: Input -> what each piece adds; in one unit, so that all of them are ranked together.
        least: What is nothing in that unit.
    """
    pair = [np.concatenate([np.ravel(side[name]) for name in ours]) if ours else np.zeros(0) for side in (ours, theirs)]
    largest = [float(np.abs(values).max(initial=0.0)) for values in pair]
    if min(largest) <= 0:
        return None
    a, b = (_ranks(np.rint(values / max(FLAT * most, least))) for values, most in zip(pair, largest, strict=True))
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / size) if size > 0 else None


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0; those that tie share their mean."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: np.ndarray = (ends - (counts + 1) / 2)[place]
    return ranks
