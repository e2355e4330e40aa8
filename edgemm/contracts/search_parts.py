"""What a search tried and found: plain values for its journal, ``front.json`` and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgemm.contracts.interval import Interval

ANSWERED, RULED_OUT, FAILED = "answered", "ruled out", "failed"
"""How a trial ended: with its accuracy, by what it costs before anybody trained it, or in an error."""


@dataclass(frozen=True)
class OutputLoss(Interval):
    """What an output lost against the original on val, in its unit, with its paired 95% interval.

    Attributes:
        per_point: What a budget's bare number counts in ``unit``; None = one.
    """

    unit: str = "points"
    n: int | None = None
    per_point: float | None = None

    @property
    def points(self) -> float:
        """The loss in points, which are the same for outputs of all kinds."""
        return self.value / (self.per_point or 1.0)


@dataclass(frozen=True)
class Tried:
    """One trial.

    Attributes:
        name: ``trial 7``, or the recipe that was tried as it is.
        options: Name of a parameter -> its value; {} for a recipe as it is.
        recipe: The whole recipe, as ``recipe.parse`` takes it.
        state: How it ended.
        losses: Output -> its loss; {} unless it was answered.
        costs: ``size_mib`` and what was timed, by the names of budgets.
        fidelity: The value of the option that costs time, where a recipe names one.
        seed: Of its training.
        why: What ruled it out, or its error.
        seconds: That it took.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    state: str = ANSWERED
    losses: Mapping[str, OutputLoss] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    fidelity: Any = None
    seed: int = 0
    why: str = ""
    seconds: float = 0.0

    @property
    def points(self) -> float | None:
        """The mean loss of all outputs, in points; None unless it was answered."""
        return sum(loss.points for loss in self.losses.values()) / len(self.losses) if self.losses else None


@dataclass(frozen=True)
class OnFront:
    """One of the best trials, trained several times.

    Attributes:
        best: The training that was taken, by val.
        points: Mean loss over the trainings, in points; low and high are the least and the most of them.
        costs: As measured side by side with the others, at the end.
        missed: Budgets that it misses by these, in words.
        losses: Output -> mean loss over the trainings; low and high are the least and the most of them.
    """

    best: Tried
    points: Interval
    costs: Mapping[str, float] = field(default_factory=dict)
    seeds: Sequence[int] = ()
    missed: Sequence[str] = ()
    losses: Mapping[str, OutputLoss] = field(default_factory=dict)


@dataclass(frozen=True)
class Searched:
    """What a search found.

    Attributes:
        objective: In words.
        budgets: As the recipe and the command have them.
        trials: All, in the order they were chosen.
        importances: Parameter -> share of the differences in the objective that it explains; {} where too little was answered.
        front: The best, the one that was taken first.
        blocked: What stands in the way, where nothing keeps the budgets: the nearest trial and the budget that it misses.
    """

    target: str
    sampler: str
    objective: str
    seed: int = 0
    budgets: Mapping[str, Any] = field(default_factory=dict)
    trials: Sequence[Tried] = ()
    importances: Mapping[str, float] = field(default_factory=dict)
    front: Sequence[OnFront] = ()
    blocked: str = ""
