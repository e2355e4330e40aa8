"""What a task is: one kind of output, from a dataset's cell to its metric, its reading and what a home automation shows of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

import numpy as np

from edgemm.contracts import modality, options, plugins
from edgemm.contracts.card import Card, Output
from edgemm.contracts.decision import Observation
from edgemm.contracts.detection_parts import Found
from edgemm.contracts.judged_parts import LabelJudged, Reliability
from edgemm.contracts.marks import Mark
from edgemm.contracts.modality import Modality
from edgemm.errors import CardError, MeasureError, naming

Sizes = Mapping[str, tuple[int, int]]
"""Input -> height and width of its picture."""
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
        key: Unique within the output. ``on_off`` and ``count``: the label.
        kind: A class that is on or off; the word that leads; a number; how many of a label are there.
        choices: Words that may be shown; () where nobody knows them.
    """

    key: str
    kind: Literal["on_off", "word", "number", "count"]
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
        parts: Modality of each input that an option annotated ``InputName`` names.
        is_quantity: The truth is a measurement, whose mean and spread its loss and head scale by.
        is_opaque: Nobody can say what the values mean.
        is_by_sign: Each number is a yes or no of its own: a logit, above 0 means yes.
        is_mean_of_labels: Its metric is a mean over labels, which leaves out those that no row has.
        has_thresholds: From which score on a label counts is fitted to rows, and anew after compression: scores are no shares of anything.
        is_annotated: An annotated picture (COCO, YOLO, VOC) says its truth: ``annotated`` makes the cell.
        has_boxes: It answers with boxes in the picture of the input that its option ``frame`` names; they can be followed.
        follows: Augmentations that move what is in a picture after which ``mirrored`` makes its truth right again.
        unfollowed: Why not others, in words.
    """

    is_quantity: ClassVar[bool] = False
    is_opaque: ClassVar[bool] = False
    is_by_sign: ClassVar[bool] = False
    has_thresholds: ClassVar[bool] = False
    is_mean_of_labels: ClassVar[bool] = False
    is_annotated: ClassVar[bool] = False
    has_boxes: ClassVar[bool] = False
    follows: ClassVar[tuple[str, ...]] = ()
    unfollowed: ClassVar[str] = ""

    name: str
    parts: Mapping[str, Modality] = field(default_factory=dict, kw_only=True, compare=False, repr=False)

    @property
    def has_truth(self) -> bool:
        """Whether a column of the dataset holds the truth."""
        return True

    @property
    def is_scored(self) -> bool:
        """Whether its metric is guarded: there is an accuracy that can be lost."""
        return True

    @property
    def reads(self) -> tuple[str, ...]:
        """Tensors of the model that its answer lies in: its own, another output's, or some that are no output of the card."""
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

    @property
    def takes_one_logit(self) -> bool:
        """Whether one number may answer for two labels: the logit of the second."""
        return self.is_one_label

    def labels_in(self, cell: Any) -> Iterable[str]:
        """Names of the labels in a cell, where ``lacks_labels`` or ``is_mean_of_labels``."""
        return ()

    def truth(self, cell: Any, row: Cells) -> np.ndarray:
        """The truth in a dataset's cell: one row of what ``measure`` and the loss take.

        Raises:
            DataError: The cell cannot be read; the text does not yet name row and column (``data`` adds them).
        """
        raise NotImplementedError

    def check(self, answers: Mapping[str, tuple[int, ...]]) -> None:
        """Hold the shapes of a model's answers against what the card says of them, as soon as there is one answer.

        Raises:
            CardError: They cannot be that.
        """

    def annotated(self, marks: Sequence[Mark], width: int, height: int) -> Any:
        """The cell of a picture of ``width`` x ``height`` pixels with these marks, where ``is_annotated``.

        Raises:
            DataError: One of the marks cannot be.
        """
        raise NotImplementedError

    def mirrored(self, truth: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The truth of rows whose picture was turned left to right, where ``follows`` names ``flip``; a new array.

        Args:
            truth: (n, ...).
            rows: bool (n,): which were turned.
        """
        raise NotImplementedError

    def file_ends(self) -> tuple[str, ...] | None:
        """In what the name of a file in a cell ends: () where no cell names one, None where any may."""
        return () if type(self).file is Task.file else None

    def file(self, cell: Any) -> str | None:
        """The file a cell names, for the dataset's fingerprint; None where the cell holds the truth itself."""
        return None

    def agrees(self, answers: Mapping[str, tuple[int, ...]], truth: tuple[int, ...] | None) -> bool:
        """Whether answers and truth of these shapes belong together."""
        return answers[self.name] == truth

    def statistics(self, answers: Arrays, truth: np.ndarray | None) -> Statistics:
        """What the answers come to. ``truth`` is None where ``has_truth`` is False; of a task that is not scored it is a reference."""
        raise NotImplementedError

    def compared(self, reference: Arrays, other: Arrays) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
        """Two answers to the same rows, neither of them the truth, by what they mean: a word -> the values of both, in one shape.

        {} where the tensors, value by value, tell it themselves. Of one that holds boxes in pixels beside scores from 0 to 1 they do not.
        """
        return {}

    def further(self, answers: Arrays, truth: np.ndarray | None) -> Mapping[str, float]:
        """Other metrics that ``train`` tells beside the guarded one; a value that is no number is left out by who asks."""
        return {}

    def thresholds(self, answers: Arrays, truth: np.ndarray) -> Mapping[str, float]:
        """Label -> the score from which it counts, as these rows have it best; where ``has_thresholds``."""
        return {}

    def counting_from(self, thresholds: Mapping[str, float]) -> Task:
        """The task as it is read where labels count from these scores on (``thresholds``); ``read`` leaves out nothing that they count."""
        return self

    def notes(self, truth: np.ndarray) -> Sequence[str]:
        """What a reader of the metric should know of the rows that it rests on, a sentence each; does not name the output."""
        return ()

    @property
    def confused(self) -> tuple[str, ...]:
        """What rows and columns of ``confusion`` stand for: its labels, and what else may be there or be answered."""
        return tuple(getattr(self, "labels", None) or ())

    def confusion(self, answers: Arrays, truth: np.ndarray | None) -> np.ndarray | None:
        """int64 (confused, confused) for the report's page, rows are the truth, columns what was answered; None where that says nothing."""
        return None

    def boxes_found(self, answers: Arrays, truth: np.ndarray) -> Found | None:
        """Of boxes, for the report's page: precision over recall of each label, and what is wrong with them; None where there are none."""
        return None

    def qualities(self, answers: Arrays, truth: np.ndarray) -> np.ndarray | None:
        """How well the picture of each row was answered, float64 (rows,), 0 to 1: by which a report chooses those that it shows.

        None of answers that are not about places in the picture of an input ``frame``.
        """
        return None

    def there(self, truth: np.ndarray) -> Observation:
        """The truth of one row as ``read`` would tell it, where there are ``qualities``."""
        raise NotImplementedError

    def judged(self, answers: Arrays, truth: np.ndarray) -> tuple[Sequence[LabelJudged], Reliability] | None:
        """Of labels, for metrics and the report's page: how well each is told, and how far chances mean what they say; None of others."""
        return None

    def read(self, answers: Arrays) -> Observation | None:
        """What the answer to one sample says; None where nothing that people could read."""
        return None

    def placed(self, seen: Observation, sizes: Sizes) -> Observation:
        """What ``read`` said in pixels of the camera's picture.

        Args:
            sizes: Input -> height and width of the picture that the answer rests on; an input whose picture nobody knows is not there.
        """
        return seen

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
    parts: dict[str, Modality] = {}
    for key, option in plugins.options("tasks", spec.task).items():
        value = spec.options.get(key) if options.mentions(option.annotation, "InputName") else None
        named = [value] if isinstance(value, str) else value or ()
        parts |= {name: modality.of(spec.inputs[name]) for name in named if name in spec.inputs}
    with naming(f"outputs.{spec.name}"):
        for name, part in parts.items():
            if getattr(part.stream(), "homography", None) is not None:
                raise CardError(
                    f"it is told in the picture of '{name}', which is warped by a homography.",
                    why="nobody sees that picture: its places are those of another camera.",
                    fix="name the picture that the other is warped to, and remove homography there.",
                )
        return kind(spec.name, **plugins.parameters(spec.options), parts=parts)


def tasks(card: Card) -> dict[str, Task]:
    """Every output's task object, in card order."""
    return {name: of(spec) for name, spec in card.outputs.items()}


def tensors(card: Card) -> dict[str, str]:
    """Tensors that the model answers with, in card order -> the output that each is for: its own, or one of several that it joins."""
    owners: dict[str, str] = {}
    for name, task in tasks(card).items():
        own = [name] if name in task.reads else [read for read in task.reads if read not in card.outputs]
        owners |= {tensor: name for tensor in own if tensor not in owners}
    return owners


def guarded_metrics() -> dict[str, str]:
    """Every task's guarded metric -> what people call it; read from source, nothing is imported."""
    metrics: dict[str, str] = {}
    for name in plugins.names("tasks"):
        metrics |= plugins.constant("tasks", name, "METRIC") or {}
    return metrics


def scored_outputs(card: Card) -> list[str]:
    """Outputs with a metric that can be lost."""
    return [name for name, task in tasks(card).items() if task.is_scored]
