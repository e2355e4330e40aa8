"""Things in a picture, each with its label and its box."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np

from edgemm.contracts.decision import Box, Observation
from edgemm.contracts.detection_parts import Found
from edgemm.contracts.marks import Mark
from edgemm.contracts.stream import Pictures
from edgemm.contracts.task import Arrays, Cells, Entity, InputName, Labels, Task
from edgemm.data import labels as words
from edgemm.data.boxes import average_precision, cells, forms, geometry, matching, quality, shapes, suppression
from edgemm.data.boxes.average_precision import EVERY, SIZES, MeanPrecision
from edgemm.data.boxes.layout import Layout
from edgemm.data.tasks._detection import options, summary, units
from edgemm.errors import CardError, DataError

METRIC = {"map": "mAP50-95"}
AT = {"map50": 0, "map75": 5}
"""Further metrics -> which of ``IOUS`` they are at."""
NOTHING = "nothing"
"""What a box that was missed, or made up, is confused with."""
TRUTHS = 100
FEWEST_PICTURES, FEWEST_BOXES = 50, 20
"""Below these an interval of mAP is wider than any loss that matters (six points of 87 pictures, unpaired)."""
FLOOR, CANDIDATES = 0.001, 5000
"""Score from which metrics count boxes, and how many of a picture they look at: a curve of precision over recall wants its tail, which no
box tells. It is what people give pycocotools; YOLOv8 is judged by it."""


@dataclass(frozen=True)
class Detection(Task):
    """Boxes with labels in one input's picture. Truth float32 (n, truths, 6): label index (-1: none), x0, y0, x1, y1 in pixels of the
    model's picture, ignored. Guarded: mean average precision over overlaps of 0.5 to 0.95.

    Attributes:
        frame: The input whose picture the boxes are in.
        labels: Names of the classes; where there are none, train takes those of its data.
        layout: How boxes and scores lie in the answer: ``yolo``, one tensor (n, 4 + labels, places); ``objectness``, one tensor (n,
            places, 5 + labels); ``levels``, tensors of each level of a pyramid; ``set``, a few predictions of one thing each.
        from_: The tensors that hold ``boxes``, ``scores`` and perhaps ``objectness``, or all of it ``joined``, by name, one or a list;
            without it the output's own.
        boxes: ``form`` (xyxy, yxyx, cxcywh; of places in a grid ltrb, dfl, grid), ``unit`` (pixels, ratio, stride), ``strides`` of the
            levels, ``bins`` of form dfl.
        scores: What the scores are: ``probability``, ``sigmoid``, ``softmax``, or ``softmax_with_nothing`` where one more score stands
            for no thing.
        nothing: Where the score for no thing stands, where there is one: ``first`` or ``last``.
        objectness: A score is multiplied by its objectness (``product``), or the ``root`` of that is taken (YuNet).
        nms: What overlaps a better box of its label by more than ``iou`` (0.6) is left out, and on the box what scores less than ``score``
            (0.05); at most ``most`` (100) are kept.
        most: How many boxes are kept; of a set the best.
        truths: Room for the boxes of one row.
    """

    has_thresholds: ClassVar[bool] = True
    is_mean_of_labels: ClassVar[bool] = True
    is_annotated: ClassVar[bool] = True
    has_boxes: ClassVar[bool] = True
    follows: ClassVar[tuple[str, ...]] = ("flip",)
    unfollowed: ClassVar[str] = "boxes follow a flip; after a turn, a crop or a shift they would no longer enclose what they did."

    frame: InputName
    labels: Labels | None = None
    layout: Literal["yolo", "objectness", "levels", "set"] = "yolo"
    from_: dict[str, str | list[str]] | None = None
    boxes: dict[str, Any] = field(default_factory=dict)
    scores: Literal["probability", "sigmoid", "softmax", "softmax_with_nothing"] = "probability"
    nothing: Literal["first", "last"] | None = None
    objectness: Literal["product", "root"] = "product"
    nms: dict[str, float] | None = None
    most: int | None = None
    truths: int = TRUTHS

    def __post_init__(self) -> None:
        if self.truths < 1:
            raise CardError(f"truths is {self.truths}.", fix="write how many boxes a row may have, at least 1.")
        if self.parts and self.pictures is None:
            raise CardError(f"frame names '{self.frame}', which is no picture.", fix="name the input whose picture the boxes are in.")
        options.suppression(self.nms, self.layout, self.most)
        if self.labels or self.from_ is not None:
            self.form  # noqa: B018  (raises what is wrong with it)

    @property
    def pictures(self) -> Pictures | None:
        """What the frame's picture is for the model; None where the card's inputs are not known."""
        stream = self.parts[self.frame].stream() if self.frame in self.parts else None
        return stream if isinstance(stream, Pictures) else None

    @functools.cached_property
    def form(self) -> Layout:
        """How its tensors are decoded.

        Raises:
            CardError: The options do not go together.
        """
        size = (self.pictures.height, self.pictures.width) if self.pictures else None
        return options.layout_of(
            self.name,
            kind=self.layout,
            labels=len(self.labels or ()),
            given=self.from_,
            boxes=self.boxes,
            scores=self.scores,
            nothing=self.nothing,
            objectness=self.objectness,
            size=size,
        )

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(name for names in self.form.parts.values() for name in names)

    @property
    def lacks_labels(self) -> bool:
        return not self.labels

    def labels_in(self, cell: Any) -> Iterable[str]:
        return cells.words(cell)

    def truth(self, cell: Any, row: Cells) -> np.ndarray:
        """``label x0 y0 x1 y1; ...`` in pixels of the file, ``-`` for none; or an array (boxes, 5)."""
        boxes = cells.read(cell, self.labels, self.name)
        if len(boxes) and self.pictures is not None:
            boxes = self._in_model(boxes, self.pictures, row)
        return cells.padded(boxes, self.truths)

    def mirrored(self, truth: np.ndarray, rows: np.ndarray) -> np.ndarray:
        assert self.pictures is not None  # its card's inputs are known
        turned = truth.copy()
        boxes = (truth[..., 0] >= 0) & rows[:, None]
        left, right = truth[..., 1][boxes], truth[..., 3][boxes]
        turned[..., 1][boxes], turned[..., 3][boxes] = self.pictures.width - right, self.pictures.width - left
        return turned

    def annotated(self, marks: Sequence[Mark], width: int, height: int) -> str:
        return cells.written(marks, width, height)

    def _in_model(self, boxes: np.ndarray, pictures: Pictures, row: Cells) -> np.ndarray:
        cell = row.inputs.get(self.frame)
        if words.is_empty(cell):
            raise DataError(
                f"it holds boxes, and '{self.frame}' is empty.", why="they are in its pixels.", fix="write - or add the picture."
            )
        height, width = self.parts[self.frame].extent(cell, row.folder)
        boxes = cells.require_inside(boxes, width, height)
        moved = geometry.Placement.of(pictures, width, height).to_model(boxes[:, 1:5]).astype(np.float64)
        inside = geometry.clip(moved, pictures.width, pictures.height)
        boxes[:, 1:5] = inside
        kept: np.ndarray = boxes[geometry.area(inside) > cells.LEAST_KEPT * geometry.area(moved)]
        return kept

    def check(self, answers: Mapping[str, tuple[int, ...]]) -> None:
        shapes.check(answers, self.form)

    def agrees(self, answers: Mapping[str, tuple[int, ...]], truth: tuple[int, ...] | None) -> bool:
        """Raises CardError where a shape does not fit the form: it says what nearly does."""
        self.check(answers)
        return truth is None or truth[1:] == (self.truths, 6)

    @property
    def rules(self) -> dict[str, float]:
        """What is suppressed, and what is kept, on the box."""
        return options.suppression(self.nms, self.layout, self.most)

    def detections(self, answers: Arrays) -> list[np.ndarray]:
        """What metrics count of each row: float32 (K, 6), label index, score, x0, y0, x1, y1 in pixels of the model's picture.

        Raises:
            MeasureError: Boxes are told in another unit than the card says.
        """
        rules = self.rules
        return self._decoded(answers, rules | {"score": min(rules["score"], FLOOR)}, CANDIDATES)

    def _decoded(self, answers: Arrays, rules: Mapping[str, float], candidates: int) -> list[np.ndarray]:
        rows = (forms.decode(row, self.form) for row in self._rows(answers))
        decoded = [self._chosen(boxes[0], scores[0], rules, candidates) for boxes, scores in rows]
        told = self.rules["score"]
        units.require_plausible([found[found[:, 1] > told, 2:] for found in decoded], self.form, self.name)
        return [self._inside(found) for found in decoded]

    def _rows(self, answers: Arrays) -> Iterable[dict[str, np.ndarray]]:
        """The answers to one row after another: decoded together, those of a dataset would stand in memory several times."""
        for row in range(len(answers[self.reads[0]])):
            yield {name: np.asarray(answers[name][row : row + 1], np.float32) for name in self.reads}

    def _chosen(self, boxes: np.ndarray, scores: np.ndarray, rules: Mapping[str, float], candidates: int) -> np.ndarray:
        score, most = rules["score"], int(rules["most"])
        if self.layout == "set":
            return suppression.best(boxes, scores, score=score, most=most, one_each=self.scores.startswith("softmax"))
        return suppression.suppress(boxes, scores, iou=rules["iou"], score=score, most=most, candidates=candidates)

    def _inside(self, found: np.ndarray) -> np.ndarray:
        edges = geometry.clip(found[:, 2:], self.form.width, self.form.height) if self.form.width else found[:, 2:]
        beyond = np.maximum(edges[:, 2:], edges[:, :2])  # an edge beyond its opposite would be a negative area, which COCO counts as no box
        return np.concatenate([found[:, :2], edges[:, :2], beyond], axis=1)

    def compared(self, reference: Arrays, other: Arrays) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
        """Scores of every place, and boxes of those places where the reference finds something; a set's things are first matched."""
        score = self.rules["score"]
        scores, boxes = list[tuple[np.ndarray, np.ndarray]](), list[tuple[np.ndarray, np.ndarray]]()
        for ours, theirs in zip(self._rows(reference), self._rows(other), strict=True):
            (box, score_of), (other_box, other_score) = ((part[0] for part in forms.decode(row, self.form)) for row in (ours, theirs))
            if self.layout == "set":
                order = matching.nearest(box, score_of, other_box, other_score)
                other_box, other_score = other_box[order], other_score[order]
            told = score_of.max(axis=1) > score
            scores.append((score_of, other_score))
            boxes.append((box[told], other_box[told]))
        both = {"scores": scores, "boxes": boxes}
        return {word: (np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs])) for word, pairs in both.items()}

    def statistics(self, answers: Arrays, truth: np.ndarray | None) -> MeanPrecision:
        assert truth is not None
        return self._matched(self.detections(answers), truth)

    def _matched(self, found: Sequence[np.ndarray], truth: np.ndarray, areas: tuple[float, float] = EVERY) -> MeanPrecision:
        return MeanPrecision(of_labels=average_precision.match(found, truth, self.form.labels, areas=areas), pictures=len(truth))

    def further(self, answers: Arrays, truth: np.ndarray | None) -> Mapping[str, float]:
        """map50 and map75, mAP of each label, and of small, medium and large boxes (areas below 32 and 96 pixels square)."""
        assert truth is not None
        found = self.detections(answers)
        whole = self._matched(found, truth)
        metrics = {name: float(average_precision.mean_of_known(whole.of([index]))) for name, index in AT.items()}
        metrics |= {f"map of {label}": float(value) for label, value in zip(self.labels or (), whole.by_label, strict=True)}
        return metrics | {f"map {name}": self._matched(found, truth, areas).value() for name, areas in SIZES.items()}

    def notes(self, truth: np.ndarray) -> Sequence[str]:
        """Labels that no row has, or few have, and that the rows are few."""
        counted = truth[(truth[..., 0] >= 0) & (truth[..., 5] == 0)][:, 0].astype(np.int64)
        counts = dict(zip(self.labels or (), np.bincount(counted, minlength=self.form.labels).tolist(), strict=True))
        absent = [label for label, count in counts.items() if not count]
        few = [f"'{label}' {count}" for label, count in counts.items() if 0 < count < FEWEST_BOXES]
        notes = [f"no box of {', '.join(map(repr, absent))} is in these rows: mAP leaves such labels out."] if absent else []
        if few or len(truth) < FEWEST_PICTURES:
            listed = f", of {', '.join(few)} boxes" if few else ""
            notes.append(
                f"{len(truth)} pictures{listed}: too few to tell small losses; {FEWEST_PICTURES} and {FEWEST_BOXES} of a label do."
            )
        return notes

    @property
    def confused(self) -> tuple[str, ...]:
        return (*(self.labels or ()), NOTHING)

    def confusion(self, answers: Arrays, truth: np.ndarray | None) -> np.ndarray | None:
        """Of boxes, at the score of each label that gives it the best F1; the last row and column is nothing."""
        if truth is None or not self.labels:
            return None
        found = self.detections(answers)
        return matching.confusion(found, truth, np.array([*self._thresholds(self._matched(found, truth)).values()]))

    def boxes_found(self, answers: Arrays, truth: np.ndarray) -> Found | None:
        """At the same scores as ``confusion``."""
        if not self.labels:
            return None
        found = self.detections(answers)
        matched = self._matched(found, truth)
        return summary.found(found, truth, matched, self._thresholds(matched))

    def qualities(self, answers: Arrays, truth: np.ndarray) -> np.ndarray:
        """Panoptic quality of boxes, at the same scores."""
        found = self.detections(answers)
        return quality.of_boxes(found, truth, np.array([*self._thresholds(self._matched(found, truth)).values()]))

    def there(self, truth: np.ndarray) -> Observation:
        labels = self.labels or ()
        return Observation(boxes=tuple(Box(labels[int(row[0])], 1.0, *row[1:5].tolist()) for row in truth if row[0] >= 0))

    def thresholds(self, answers: Arrays, truth: np.ndarray) -> Mapping[str, float]:
        """Those of the best F1 at an overlap of 0.5; 1 where nothing right was found."""
        return self._thresholds(self._matched(self.detections(answers), truth))

    def _thresholds(self, matched: MeanPrecision) -> dict[str, float]:
        best = [average_precision.best_threshold(one)[0] for one in matched.of_labels]
        return dict(zip(self.labels or (), best, strict=True))

    def counting_from(self, thresholds: Mapping[str, float]) -> Detection:
        """With boxes told from the lowest of them on, where ``nms`` leaves out more than they do."""
        score = min([self.rules["score"], *(0.99 * one for one in thresholds.values())])
        return self if score == self.rules["score"] else replace(self, nms={**(self.nms or {}), "score": score})

    def read(self, answers: Arrays) -> Observation:
        """Its boxes in the model's picture; of each label the best score."""
        labels = self.labels or ()
        boxes = tuple(Box(labels[int(row[0])], *row[1:].tolist()) for row in self._decoded(answers, self.rules, suppression.CANDIDATES)[0])
        best = {label: max((box.score for box in boxes if box.label == label), default=0.0) for label in labels}
        return Observation(best, boxes=boxes)

    def placed(self, seen: Observation, sizes: Mapping[str, tuple[int, int]]) -> Observation:
        if self.frame not in sizes or self.pictures is None or not seen.boxes:
            return seen
        height, width = sizes[self.frame]
        edges = np.array([(box.x0, box.y0, box.x1, box.y1) for box in seen.boxes])
        moved = geometry.Placement.of(self.pictures, width, height).to_picture(edges)
        boxes = [Box(box.label, box.score, *map(float, one)) for box, one in zip(seen.boxes, moved, strict=True)]
        return replace(seen, boxes=tuple(boxes))

    def entities(self) -> Sequence[Entity]:
        """How many of each label are to be seen."""
        return [Entity(label, "count") for label in self.labels or ()]
