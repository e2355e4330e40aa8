"""What a task is: one kind of output, from a dataset's cell to its metric, its reading and what a home automation shows of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

import numpy as np

from edgemm.contracts import plugins
from edgemm.contracts.card import Card, Output
from edgemm.contracts.decision import Observation
from edgemm.errors import CardError, EdgemmError, MeasureError, Mistakes

Arrays = Mapping[str, np.ndarray]
"""Output name -> (rows, ...)."""

Labels: TypeAlias = tuple[str, ...]
"""Annotation of an option that lists names: the card takes YAML's yes, no and numbers for the words they stand for."""
OutputName: TypeAlias = str
"""Annotation of an option that names another output of the card; the card refuses one that is not there."""
InputName: TypeAlias = str
"""The same for an input."""


@dataclass(frozen=True)
class Score:
    """One metric of one output.

    Attributes:
        value: In ``unit``.
        low, high: 95% interval; None where the rows allow none.
        n: Rows behind it. The steps of a ``per_step`` output are averaged within their row: they are not independent.
        better: ``higher`` or ``lower``.
        per_point: What a budget's bare number counts in ``unit``: one, and for a loss in a unit of its own a hundredth of the truth's
            spread (its standard deviation), since that unit says nothing about how much is much. None where no budget is held against it.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    n: int
    better: str
    unit: str
    per_point: float | None = None


class Statistics(Protocol):
    """What the answers to some rows come to, kept by row so that several answers to the same rows can be compared in pairs."""

    def score(self) -> Score:
        """The guarded metric with its interval."""
        ...

    def drop(self, after: Statistics) -> Score:
        """What ``after``, answers to the same rows, lost against these.

        Returns:
            Score ``accuracy_drop_points``: in points where the metric is a ratio, else in its unit. Positive is a loss. The interval is
            paired: rows answered alike say nothing.
        """
        ...

    def gain(self, weight: float, others: Sequence[tuple[float, Statistics]] = ()) -> Score:
        """``weight`` times the metric of these and each other's weight times its metric, such as what an input contributes.

        Returns:
            Score ``gain_points``: as ``drop``, but positive is better. The interval is paired.
        """
        ...

    def goodness(self) -> float:
        """A number to add up over outputs, the higher the better and 1 at best: the metric, or 1 - error in the truth's spread."""
        ...


@dataclass(frozen=True)
class Cells:
    """The row a truth stands in, for a task that needs more than its own cell (boxes are in pixels of the picture beside them).

    Attributes:
        folder: What paths in the row are relative to.
        inputs: Input -> its cell, undecoded.
    """

    folder: Path
    inputs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Entity:
    """One thing of an output that a home automation shows.

    Attributes:
        key: Unique within the output. ``on_off``: the label that goes on and off.
        kind: A class that is on or off; the word that leads; a number.
        choices: Words that may be shown; () where nobody knows them.
    """

    key: str
    kind: Literal["on_off", "word", "number"]
    choices: tuple[str, ...] = ()
    unit: str | None = None


@dataclass(frozen=True)
class Task:
    """One output's task with its options. A plugin is a frozen dataclass whose own fields are the options a card may set.

    ``METRIC`` at the top of its file names the guarded metric and what people call it: ``{"mae": "Mean absolute error"}``.
    ``__post_init__`` checks values and raises ``CardError`` without naming the output (``of`` adds the name). A loss and, for reference
    models, a head of the same name belong to it in the workshop.

    ``answers`` are always by output name: a task may join several (``reads``). Rows come first; of one sample there is one row. The truth
    of every row has one shape; what is ragged by nature, such as boxes, is padded up to a size that the options say.

    Attributes:
        name: The output's name.
        has_truth: A column of the dataset holds the truth.
        is_quantity: The truth is a measurement, whose mean and spread its loss and head scale by.
        is_opaque: Nobody can say what the values mean.
    """

    has_truth: ClassVar[bool] = True
    is_quantity: ClassVar[bool] = False
    is_opaque: ClassVar[bool] = False

    name: str

    @property
    def is_scored(self) -> bool:
        """Whether its metric is guarded: there is an accuracy that can be lost."""
        return True

    @property
    def reads(self) -> tuple[str, ...]:
        """Outputs of the model that its answer lies in."""
        return (self.name,)

    @property
    def answer_width(self) -> int | None:
        """How many values a model answers with at one moment, on the last axis; None where the card does not say."""
        return None

    @property
    def lacks_labels(self) -> bool:
        """Whether labels are to be found in the data: the card lists none, and there should be some."""
        return False

    @property
    def is_one_label(self) -> bool:
        """Whether a row has one label out of several, so that rows can be chosen by it and the best score says how sure the model is."""
        return False

    def labels_in(self, cell: Any) -> Iterable[str]:
        """Names of the labels in a cell, where ``lacks_labels``."""
        return ()

    def truth(self, cell: Any, row: Cells) -> np.ndarray:
        """The truth in a dataset's cell: one row of what ``measure`` and the loss take.

        Raises:
            DataError: The cell cannot be read; the text does not yet name row and column (``data`` adds them).
        """
        raise NotImplementedError

    def agrees(self, answers: Mapping[str, tuple[int, ...]], truth: tuple[int, ...] | None) -> bool:
        """Whether answers and truth of these shapes belong together."""
        return answers[self.name] == truth

    def statistics(self, answers: Arrays, truth: np.ndarray | None) -> Statistics:
        """What the answers come to. ``truth`` is None where ``has_truth`` is False; of a task that is not scored it is a reference."""
        raise NotImplementedError

    def further(self, answers: Arrays, truth: np.ndarray | None) -> Mapping[str, float]:
        """Other metrics that ``train`` tells beside the guarded one; a value that is no number is left out by who asks."""
        return {}

    def confusion(self, answers: Arrays, truth: np.ndarray | None) -> np.ndarray | None:
        """int64 (labels, labels) for the report's page, rows are the truth, columns what was answered; None where that says nothing."""
        return None

    def read(self, answers: Arrays) -> Observation | None:
        """What the answer to one sample says; None where nothing that people could read."""
        return None

    def entities(self) -> Sequence[Entity]:
        """What a home automation shows of it."""
        return ()

    def measure(self, answers: Arrays, truth: np.ndarray | None) -> Statistics:
        """``statistics``, of answers that were checked.

        Raises:
            MeasureError: No rows, shapes that do not belong together, or answers that are not finite.
        """
        own = {name: answers[name] for name in self.reads}
        self._check(own, truth)
        return self.statistics(own, truth)

    def _check(self, answers: Arrays, truth: np.ndarray | None) -> None:
        first = next(iter(answers.values()))
        rows = len(first)
        others = [len(array) for array in (*answers.values(), *(() if truth is None else (truth,)))]
        if rows == 0 or any(other != rows for other in others):
            raise MeasureError(
                f"output '{self.name}' cannot be scored: {rows} predictions for {others[-1]} rows.",
                fix="score every row of a split that has some.",
            )
        shapes = {name: array.shape for name, array in answers.items()}
        if not self.agrees(shapes, None if truth is None else truth.shape):
            joined = [f"predictions {shape}" for shape in shapes.values()] + ([] if truth is None else [f"truth {truth.shape}"])
            raise MeasureError(
                f"output '{self.name}' cannot be scored: {' and '.join(joined)} do not belong together.",
                why=f"its task is '{plugins.name_of(type(self))}'" + (", one answer a step." if getattr(self, "per_step", False) else "."),
                fix="check the output's task, labels and per_step in the card against what the model returns.",
            )
        broken = np.zeros(rows, bool)
        for array in answers.values():
            broken |= (~np.isfinite(array.reshape(rows, -1))).any(axis=1)
        if broken.any():
            raise MeasureError(
                f"output '{self.name}' is not finite in {int(broken.sum())} of {rows} rows.",
                why="the model that answered computed NaN or infinity.",
                fix="look at the parity table for the first branch that differs.",
            )


def of(spec: Output) -> Task:
    """The task object of a card's output.

    Raises:
        CardError: A value is out of range; names the output. Mistakes: several are.
    """
    kind = plugins.find(Task, spec.task)
    try:
        return kind(spec.name, **spec.options)
    except CardError as err:
        raise _named(err, spec) from err
    except Mistakes as err:
        raise Mistakes([_named(error, spec) for error in err.errors]) from err


def _named(err: EdgemmError, spec: Output) -> CardError:
    return CardError(f"outputs.{spec.name}: {err.what}", why=err.why, fix=err.fix)


def tasks(card: Card) -> dict[str, Task]:
    """Every output's task object, in card order."""
    return {name: of(spec) for name, spec in card.outputs.items()}


def guarded_metrics() -> dict[str, str]:
    """Every task's guarded metric -> what people call it; read from source, nothing is imported."""
    metrics: dict[str, str] = {}
    for name in plugins.names("tasks"):
        metrics |= plugins.constant("tasks", name, "METRIC") or {}
    return metrics


def scored_outputs(card: Card) -> list[str]:
    """Outputs with a metric that can be lost."""
    return [name for name, task in tasks(card).items() if task.is_scored]
