"""Named points of objects in a picture, such as joints and corners."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from edgemm.contracts.decision import Observation, Point, Pose
from edgemm.contracts.marks import Mark
from edgemm.contracts.stream import Pictures
from edgemm.contracts.task import Arrays, Cells, Entity, InputName, Labels, Task
from edgemm.data import labels as names
from edgemm.data.boxes import average_precision, quality
from edgemm.data.boxes.average_precision import Likeness, MeanPrecision, mean_of_known
from edgemm.data.boxes.geometry import Placement, clip
from edgemm.data.scoring import Metric
from edgemm.data.tasks._keypoints import objects, similarity
from edgemm.data.tasks._keypoints.poses import Form, Poses, poses, probabilities
from edgemm.errors import CardError, DataError

METRIC = {"oks_map": "mAP over OKS 0.50 to 0.95"}
LAYOUTS = ("heatmaps", "centres", "list")
FEWEST = 20  # objects of a label in the rows of a metric: below that one object moves it by points
OUTSIDE = 1.0  # pixels that a point may lie beyond the picture: of rounding, and of tools that count from 1


@dataclass(frozen=True)
class Keypoints(Task):
    """Heat maps, or coordinates with scores; truth float32 (n, truths, 5 + 3 * points). Guarded: mean average precision over OKS.

    A row of the truth: label number (-1 = none), the edges of the object's box, then x, y and visibility (0 not known, 1 hidden, 2 seen) of
    each point, in pixels of the model's picture.

    Attributes:
        labels: Kinds of objects.
        points: Names of an object's points, in their order.
        frame: The input whose pixels points are in.
        skeleton: Pairs of points, counted from 0, between which a line is drawn.
        sigmas: How exactly each point can be told, as a share of the object's size; one number for all. COCO's 17 are for people alone.
        layout: ``heatmaps``: (n, points, h, w), one object a picture. ``centres``: (n, labels + 3 * points, h, w): where objects of each
            label have their middle, a map a point, then how far each point is from there in cells (x, y). ``list``: (n, objects, labels
            + 3 * points): a score a label, then x, y and score of each point.
        scores: Whether scores and maps are logits (``sigmoid``) or probabilities.
        unit: What x and y of a ``list`` count: pixels of the model's picture, or its width and height.
        most: Objects of a picture that an answer may have, the best.
        least: Objects with a lower score are not told on the box; metrics count them.
        truths: Objects of a picture that there is room for.
    """

    has_thresholds: ClassVar[bool] = True
    is_mean_of_labels: ClassVar[bool] = True
    is_annotated: ClassVar[bool] = True
    unfollowed: ClassVar[str] = "mirrored, a left hand is a right one, and the card does not say which points are pairs."

    labels: Labels
    points: Labels
    frame: InputName
    skeleton: list[list[int]] | None = None
    sigmas: list[float] | float = 0.05
    layout: Literal["heatmaps", "centres", "list"] = "heatmaps"
    scores: Literal["sigmoid", "probability"] = "sigmoid"
    unit: Literal["pixels", "ratio"] = "pixels"
    most: int = 20
    least: float = 0.1
    truths: int = 20

    def __post_init__(self) -> None:
        if self.layout == "heatmaps" and len(self.labels) > 1:
            why = "with layout: heatmaps a picture holds one object, and nothing tells of which kind."
            raise CardError(f"labels has {len(self.labels)}.", why=why, fix="name one, or set layout: centres or list.")
        for pair in self.skeleton or ():
            if len(pair) != 2 or not all(0 <= point < len(self.points) for point in pair):
                why = f"points has {len(self.points)}: {', '.join(f'{number} {name}' for number, name in enumerate(self.points))}."
                raise CardError(f"skeleton has {list(pair)}.", why=why, fix="write pairs of points that are there, counted from 0.")
        sigmas = np.atleast_1d(self.sigmas)
        if len(sigmas) not in (1, len(self.points)) or not (sigmas > 0).all():
            raise CardError(
                f"sigmas is {self.sigmas}.",
                why=f"points has {len(self.points)}.",
                fix="write a number above 0 for each point, or one for all.",
            )
        if min(self.most, self.truths) < 1:
            raise CardError(f"most is {self.most} and truths {self.truths}.", fix="write 1 or more.")
        if self.parts:
            self._pictures()

    def _pictures(self) -> Pictures:
        """What the frame's pictures are made to be.

        Raises:
            CardError: It is no picture.
        """
        spec = self.parts[self.frame].stream() if self.frame in self.parts else None
        if not isinstance(spec, Pictures):
            raise CardError(f"frame is '{self.frame}', which is no picture.", fix="name an input of modality image.")
        return spec

    @property
    def form(self) -> Form:
        """How answers are read."""
        picture = self._pictures()
        sizes = (picture.width, picture.height, self.scores, self.unit, self.most)
        return Form(self.layout, len(self.labels), len(self.points), *sizes)

    def labels_in(self, cell: Any) -> Iterable[str]:
        return [self.labels[thing.label] for thing in objects.things(cell, self.labels, self.points, self.name)]

    def annotated(self, marks: Sequence[Mark], width: int, height: int) -> str:
        """Objects of its labels; a set may hold others, which have no points."""
        return objects.written([mark for mark in marks if mark.label in self.labels], self.points)

    def truth(self, cell: Any, row: Cells) -> np.ndarray:
        """``label x y v x y v ...; ...`` in pixels of the file, or ``-``; four numbers before the points are the edges of a box.

        Raises:
            DataError: Too many objects, or none of that; the picture beside them is missing.
        """
        found = objects.things(cell, self.labels, self.points, self.name)
        if len(found) > self.truths:
            fix = f"set truths: {len(found)} in the card's output."
            raise DataError(f"it holds {len(found)} objects.", why=f"the card has room for {self.truths}.", fix=fix)
        truth = np.zeros((self.truths, similarity.POINTS + 3 * len(self.points)), np.float32)
        truth[:, similarity.LABEL] = -1
        if found:
            if names.is_empty(picture := row.inputs.get(self.frame)):
                why = "points are in its pixels."
                raise DataError(f"it holds objects, and '{self.frame}' is empty.", why=why, fix="write - or add the picture.")
            high, wide = self.parts[self.frame].extent(picture, row.folder)
            kept = [placed for thing in found if (placed := _placed(thing, Placement.of(self._pictures(), wide, high))) is not None]
            for line, thing in zip(truth, kept, strict=False):
                line[similarity.LABEL], line[similarity.BOX] = thing.label, thing.box
                line[similarity.POINTS :] = thing.points.reshape(-1)
        return truth

    def check(self, answers: Mapping[str, tuple[int, ...]]) -> None:
        shape, form = answers[self.name], self.form
        if form.fits(shape):
            return
        others = [layout for layout in LAYOUTS if replace(form, layout=layout).fits(shape)]
        raise CardError(
            f"output '{self.name}' has shape {tuple(shape)}, and the card says layout: {self.layout}.",
            why=f"with {len(self.labels)} labels and {len(self.points)} points that is {form.words()}.",
            fix=f"write layout: {others[0]}, which it fits." if others else "mend labels, points and layout, or what the model returns.",
        )

    def agrees(self, answers: Mapping[str, tuple[int, ...]], truth: tuple[int, ...] | None) -> bool:
        wanted = (self.truths, similarity.POINTS + 3 * len(self.points))
        return truth is not None and truth[1:] == wanted and self.form.fits(answers[self.name])

    def compared(self, reference: Arrays, other: Arrays) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
        """Of a list scores apart from places, and of these the ones of objects that the reference tells."""
        if self.layout != "list":
            return {}
        count = len(self.labels)
        ours, theirs = (array[self.name] for array in (reference, other))
        told = probabilities(ours[..., :count], self.scores).max(axis=-1) >= self.least
        places = [array[told][:, count:].reshape(-1, len(self.points), 3)[..., :2] for array in (ours, theirs)]
        return {"scores": (ours[..., :count], theirs[..., :count]), "points": (places[0], places[1])}

    def statistics(self, answers: Arrays, truth: np.ndarray | None) -> MeanPrecision:
        assert truth is not None
        return self._precision(self.found(answers), truth)

    def further(self, answers: Arrays, truth: np.ndarray | None) -> Mapping[str, float]:
        """AP at OKS 0.5 and 0.75, of each label where there are several, and PCK: the share of points within 0.1 of their object's size."""
        assert truth is not None
        found = self.found(answers)
        pieces = self._precision(found, truth)
        values = {f"oks_map{round(100 * average_precision.IOUS[level])}": float(mean_of_known(pieces.of([level]))) for level in (0, 5)}
        near = np.sum([self._near(ours, theirs) for ours, theirs in zip(found, truth, strict=True)], axis=0)
        values["pck"] = float(near[0] / near[1]) if near[1] else float("nan")
        each = zip(self.labels, pieces.by_label, strict=True) if len(self.labels) > 1 else ()
        return values | {f"oks_map of {label}": float(value) for label, value in each}

    def thresholds(self, answers: Arrays, truth: np.ndarray) -> Mapping[str, float]:
        """Those of the best F1 at an OKS of 0.5; 1 where nothing right was found."""
        pieces = self._precision(self.found(answers), truth).of_labels
        return {label: average_precision.best_threshold(one)[0] for label, one in zip(self.labels, pieces, strict=True)}

    def qualities(self, answers: Arrays, truth: np.ndarray) -> np.ndarray:
        """Panoptic quality of objects by their OKS, from each label's best score on."""
        least = np.array([*self.thresholds(answers, truth).values()])
        qualities = []
        for found, rows in zip(self.found(answers), truth, strict=True):
            ours, theirs = found[found[:, 1] >= least[found[:, 0].astype(int)]], rows[rows[:, similarity.LABEL] >= 0]
            same = ours[:, :1] == theirs[None, :, similarity.LABEL]
            qualities.append(quality.of_picture(np.where(same, self._alike(ours, theirs), 0.0)))
        return np.array(qualities)

    def there(self, truth: np.ndarray) -> Observation:
        rows = truth[truth[:, similarity.LABEL] >= 0]
        objects = [np.concatenate([[row[similarity.LABEL], 1.0], row[similarity.POINTS :]]) for row in rows]
        return Observation(poses=tuple(self._told(line) for line in objects))

    def notes(self, truth: np.ndarray) -> Sequence[str]:
        """Labels that no row has, or few have."""
        counts = np.bincount(truth[..., 0][truth[..., 0] >= 0].astype(np.int64), minlength=len(self.labels)).tolist()
        absent = [repr(label) for label, count in zip(self.labels, counts, strict=True) if not count]
        few = [f"'{label}' {count}" for label, count in zip(self.labels, counts, strict=True) if 0 < count < FEWEST]
        return [
            *([f"no object of {', '.join(absent)} is in these rows: mAP leaves such labels out."] if absent else []),
            *([f"of {', '.join(few)} objects: too few to tell small losses; {FEWEST} of a label do."] if few else []),
        ]

    def found(self, answers: Arrays) -> list[Poses]:
        form = self.form
        return [poses(answer, form) for answer in answers[self.name]]

    def _precision(self, found: Sequence[Poses], truth: np.ndarray) -> MeanPrecision:
        matched = average_precision.match(found, truth, len(self.labels), most=self.most, likeness=Likeness(self._alike, _unknown))
        return MeanPrecision(of_labels=matched, pictures=len(truth), metric=Metric("oks_map"))

    def _alike(self, ours: Poses, theirs: np.ndarray) -> np.ndarray:
        """OKS of each answered object of a picture with each true one."""
        answered = ours[:, 2:].reshape(len(ours), len(self.points), 3)
        return similarity.oks(answered, theirs, np.broadcast_to(np.asarray(self.sigmas, np.float64), (len(self.points),)))

    def _near(self, ours: Poses, theirs: np.ndarray) -> tuple[int, int]:
        theirs = theirs[theirs[:, similarity.LABEL] >= 0]
        similar = np.where(ours[:, :1] == theirs[None, :, similarity.LABEL], self._alike(ours, theirs), 0.0)
        return similarity.near(ours[:, 2:].reshape(len(ours), len(self.points), 3), theirs, similar)

    def read(self, answers: Arrays) -> Observation:
        """Of each label the best score, and the objects."""
        found = poses(np.asarray(answers[self.name])[0], self.form)
        best = [float(found[found[:, 0] == label, 1].max(initial=0.0)) for label in range(len(self.labels))]
        told = tuple(self._told(line) for line in found[found[:, 1] >= self.least])
        return Observation(names.named(np.array(best), self.labels), poses=told)

    def _told(self, line: np.ndarray) -> Pose:
        points = zip(self.points, line[2:].reshape(-1, 3).tolist(), strict=True)
        told = tuple(Point(name, score, x, y) for name, (x, y, score) in points)
        return Pose(self.labels[int(line[0])], float(line[1]), told, tuple((one, other) for one, other in self.skeleton or ()))

    def placed(self, seen: Observation, sizes: Mapping[str, tuple[int, int]]) -> Observation:
        if self.frame not in sizes:
            return seen
        high, wide = sizes[self.frame]
        place = Placement.of(self._pictures(), wide, high)
        (across, down), (right, below) = place.scale, place.shift

        def moved(point: Point) -> Point:
            return replace(point, x=(point.x - right) / across, y=(point.y - below) / down)

        return replace(seen, poses=tuple(replace(pose, points=tuple(map(moved, pose.points))) for pose in seen.poses))

    def entities(self) -> Sequence[Entity]:
        """A switch a label."""
        return [Entity(label, "on_off") for label in self.labels]


def _unknown(theirs: np.ndarray) -> np.ndarray:
    """Which of a truth's objects have no known point: as in COCO, they are not to be found, and finding them is no fault."""
    unknown: np.ndarray = (theirs[:, similarity.POINTS + 2 :: 3] == 0).all(axis=1)
    return unknown


def _placed(thing: objects.Thing, placement: Placement) -> objects.Thing | None:
    """The object in the model's picture; None where a crop has cut away all its points.

    Raises:
        DataError: A point lies outside of the file's picture.
    """
    points = thing.points.copy()
    known = points[:, 2] > 0
    low, high = -OUTSIDE, np.array([placement.width, placement.height]) + OUTSIDE
    outside = known & ((points[:, :2] < low) | (points[:, :2] > high)).any(axis=1)
    if outside.any():
        x, y, _ = points[outside][0]
        raise DataError(
            f"the point {x:g} {y:g} lies outside of its picture.",
            why=f"that is {placement.width} x {placement.height} pixels, upright.",
            fix="mend the point, or give it visibility 0; x counts to the right, y down, in pixels of the file.",
        )
    points[:, :2] = points[:, :2] * placement.scale + placement.shift
    size = (placement.model_width, placement.model_height)
    points[((points[:, :2] < 0) | (points[:, :2] > size)).any(axis=1)] = 0
    points[points[:, 2] == 0] = 0
    if known.any() and not points.any():
        return None
    box = clip(placement.to_model(thing.box[None]), *size)[0]
    return replace(thing, points=points, box=box)
