"""Mean average precision as COCO counts it: matched once a model, then counted for any weights of the pictures. numpy alone.

Equal to pycocotools and faster-coco-eval: greedy matching by score at ten overlaps, among equal overlaps the later box, 101 points of
recall, 100 detections a class and picture, and what lies on an ignored box is neither right nor wrong.

Source: Lin et al., Microsoft COCO (2014), and its evaluation code of 2015, the definition that everybody reports by.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgemm.data.boxes import geometry
from edgemm.data.scoring import Metric, Resampled

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MOST = 100  # detections a class and picture
EVERY = (0.0, 1e10)
SIZES: Mapping[str, tuple[float, float]] = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""Areas in pixels of the model's picture, as COCO calls them."""
MAP = Metric("map")
LABEL, SCORE, IGNORED = 0, 1, 5
NUMBERS_IN_CACHE = 1 << 14
NUMBERS_AT_ONCE = 1 << 22  # of one array while many draws are counted: 32 MB


@dataclass(frozen=True, eq=False)
class OfLabel:
    """What the detections of one label came to, the best score of all pictures first.

    Attributes:
        score: (n,).
        picture: int64 (n,).
        hit: bool (10, n): it found a box, at each overlap.
        counted: bool (10, n): it is right or wrong, and not ignored.
        there: int64 (pictures,), boxes to be found in each.
    """

    score: np.ndarray
    picture: np.ndarray
    hit: np.ndarray
    counted: np.ndarray
    there: np.ndarray


@dataclass(frozen=True)
class Likeness:
    """How things of one label that are no boxes are held against each other.

    Attributes:
        of: Rows of detections (k, ...) and of the truth (t, ...) -> (k, t), 0 to 1.
        ignored: Rows of the truth -> bool (t,): finding it is neither right nor wrong.
    """

    of: Callable[[np.ndarray, np.ndarray], np.ndarray]
    ignored: Callable[[np.ndarray], np.ndarray]


def match(
    detections: Sequence[np.ndarray],
    truth: np.ndarray,
    labels: int,
    *,
    areas: tuple[float, float] = EVERY,
    most: int = MOST,
    likeness: Likeness | None = None,
) -> list[OfLabel]:
    """Hold the detections of each picture against its truth.

    Args:
        detections: For each picture float32 (K, 6): label index, score, x0, y0, x1, y1.
        truth: (pictures, T, 6): label index (-1: none), x0, y0, x1, y1, ignored.
        areas: Boxes that are smaller or larger are ignored.
        likeness: Of other things than boxes, whose rows are longer behind label and score, and behind label; ``areas`` are then of none.
    """
    found: list[list[tuple[int, np.ndarray, np.ndarray, np.ndarray]]] = [[] for _ in range(labels)]
    there = np.zeros((labels, len(truth)), np.int64)
    for number, (ours, theirs) in enumerate(zip(detections, truth, strict=True)):
        theirs = theirs[theirs[:, LABEL] >= 0].astype(np.float64)
        of_ours, of_theirs = ours[:, LABEL].astype(np.int64), theirs[:, LABEL].astype(np.int64)
        for label in np.union1d(of_ours, of_theirs):
            own, true = ours[of_ours == label], theirs[of_theirs == label]
            own = own[np.argsort(-own[:, SCORE], kind="stable")[:most]].astype(np.float64)
            held = _boxes_held(own[:, 2:], true, areas) if likeness is None else _held(own, true, likeness)
            there[label, number] = (~held.outside).sum()
            found[label].append((number, own[:, SCORE], *_of_picture(held)))
    return [_joined(parts, there[label]) for label, parts in enumerate(found)]


def average_precision(of_label: OfLabel, weights: np.ndarray, ious: Sequence[int] = range(len(IOUS))) -> np.ndarray:
    """Average precision of a label where each picture counts as often as its weight says.

    Args:
        weights: (draws, pictures), whole numbers.
        ious: Which of ``IOUS`` are averaged.

    Returns:
        float64 (draws,); NaN where no box is to be found.
    """
    draws, total = len(weights), weights @ of_label.there.astype(weights.dtype)
    hits = np.flatnonzero(of_label.hit[list(ious)].any(axis=0))
    areas = np.zeros(draws)
    at_once = max(1, NUMBERS_AT_ONCE // max(len(hits), 1))
    for start in range(0, draws, at_once) if len(hits) else ():
        part = slice(start, start + at_once)
        areas[part] = _areas(of_label, hits, weights[part], total[part], ious)
    return np.where(total > 0, areas / len(ious), np.nan)


def _areas(of_label: OfLabel, hits: np.ndarray, weights: np.ndarray, total: np.ndarray, ious: Sequence[int]) -> np.ndarray:
    """Sums of the areas under the curves at some overlaps, (draws,); ``hits`` are the detections that are right at one of them."""
    sums, every = np.zeros(len(weights)), _answered(of_label, hits, weights)
    few = max(1, NUMBERS_IN_CACHE // len(hits))
    for index in ious:
        right, ignored = np.flatnonzero(of_label.hit[index, hits]), np.flatnonzero(~of_label.counted[index])
        before = np.searchsorted(ignored, hits[right])  # how many ignored ones come before each
        for start in range(0, len(weights), few):
            some = weights[start : start + few]
            answered, found = every[start : start + few, right], np.cumsum(some[:, of_label.picture[hits[right]]], axis=1)
            if len(ignored):
                answered = answered - np.pad(np.cumsum(some[:, of_label.picture[ignored]], axis=1), ((0, 0), (1, 0)))[:, before]
            precision = found / np.maximum(answered, 1)
            precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]  # the best at this recall or beyond
            reached = _reached(found / np.maximum(total[start : start + few], 1)[:, None])
            sums[start : start + few] += (precision * np.diff(reached, axis=1, prepend=0)).sum(axis=1) / len(RECALLS)
    return sums


def _answered(of_label: OfLabel, hits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """How many detections there are up to each hit, (draws, hits): a product with how many each picture has there."""
    pictures, answered = weights.shape[1], np.empty((len(weights), len(hits)))
    place = np.searchsorted(hits, np.arange(len(of_label.picture)))
    before, at_once = np.zeros(pictures, np.float32), max(1, NUMBERS_AT_ONCE // max(pictures, 1))
    narrow = weights.astype(np.float32)  # whole numbers, exact up to 16 millions
    for start in range(0, len(hits), at_once):
        width = min(at_once, len(hits) - start)
        within = (place >= start) & (place < start + width)
        having = np.zeros((pictures, width), np.float32)
        np.add.at(having, (of_label.picture[within], place[within] - start), 1)
        having[:, 0] += before
        np.cumsum(having, axis=1, out=having)
        answered[:, start : start + width], before = narrow @ having, having[:, -1].copy()
    return answered


def _reached(recall: np.ndarray) -> np.ndarray:
    """How many of ``RECALLS`` a recall reaches: a comparison without tolerance, as everybody makes it."""
    below = (recall * (len(RECALLS) - 1)).astype(np.int64)
    nearly = np.minimum(below + 1, len(RECALLS) - 1)  # rounding may have moved the product to either side
    reached: np.ndarray = np.where(RECALLS[nearly] <= recall, nearly, np.where(RECALLS[below] <= recall, below, below - 1)) + 1
    return reached


@dataclass(frozen=True, kw_only=True, eq=False)
class MeanPrecision(Resampled):
    """Mean average precision over labels; a label that no picture has is left out.

    Attributes:
        of_labels: What ``match`` gave.
        pictures: How many.
    """

    of_labels: Sequence[OfLabel]
    pictures: int
    metric: Metric = MAP

    def values(self, weights: np.ndarray) -> np.ndarray:
        of_labels = [one for one in self.of_labels if one.there.any()]
        values = np.array([average_precision(one, weights) for one in of_labels]).reshape(len(of_labels), len(weights))
        return mean_of_known(values)

    def count(self) -> int:
        return self.pictures

    def of(self, ious: Sequence[int] = range(len(IOUS))) -> np.ndarray:
        """Each label's average precision over some of ``IOUS``, (labels,); NaN of one that no picture has."""
        ones = np.ones((1, self.pictures))
        return np.array([average_precision(one, ones, ious)[0] for one in self.of_labels])

    @functools.cached_property
    def by_label(self) -> np.ndarray:
        """``of`` all overlaps."""
        return self.of()


def best_threshold(of_label: OfLabel, *, iou: int = 0) -> tuple[float, float]:
    """From which score on a label's detections make the most of precision and recall: the threshold, and F1 there.

    Args:
        iou: Which of ``IOUS`` a detection has to reach.

    Returns:
        (1.0, 0.0) where nothing is found.
    """
    right, counted = np.cumsum(of_label.hit[iou]), np.cumsum(of_label.counted[iou])
    last = np.append(of_label.score[1:] != of_label.score[:-1], True)[: len(of_label.score)]  # a threshold does not part what ties
    f1 = np.where(last, 2 * right / np.maximum(counted + of_label.there.sum(), 1), 0.0)
    if not f1.any():
        return 1.0, 0.0
    best = int(f1.argmax())
    return float(of_label.score[best]), float(f1[best])


def mean_of_known(values: np.ndarray) -> np.ndarray:
    """Means over the first axis without NaN; NaN where there is nothing else."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    means: np.ndarray = np.where(count > 0, np.where(known, values, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)
    return means


def _within(boxes: np.ndarray, areas: tuple[float, float]) -> np.ndarray:
    sizes = geometry.area(boxes)
    within: np.ndarray = (sizes >= areas[0]) & (sizes <= areas[1])
    return within


@dataclass(frozen=True, eq=False)
class _Held:
    """The detections of one label in one picture, the best score first, against what is there.

    Attributes:
        overlaps: (n, t).
        crowd: bool (t,), boxes that any number of detections may lie on.
        outside: bool (t,), those that are not to be found.
        beyond: bool (n,), detections that are not counted where they find nothing.
    """

    overlaps: np.ndarray
    crowd: np.ndarray
    outside: np.ndarray
    beyond: np.ndarray


def _boxes_held(ours: np.ndarray, truth: np.ndarray, areas: tuple[float, float]) -> _Held:
    """Of a crowd what counts is the share of the detection inside."""
    theirs, crowd = truth[:, 1:5], truth[:, IGNORED] > 0
    shared, sizes = geometry.overlap(ours, theirs), geometry.area(ours)[:, None]
    union = np.where(crowd[None], sizes, sizes + geometry.area(theirs)[None] - shared)
    overlaps = shared / np.where(union > 0, union, 1)
    return _Held(overlaps, crowd, ~_within(theirs, areas) | crowd, ~_within(ours, areas))


def _held(ours: np.ndarray, theirs: np.ndarray, likeness: Likeness) -> _Held:
    return _Held(likeness.of(ours, theirs), np.zeros(len(theirs), bool), likeness.ignored(theirs), np.zeros(len(ours), bool))


def _of_picture(held: _Held) -> tuple[np.ndarray, np.ndarray]:
    """(hit, counted), each bool (10, n)."""
    overlaps, many = held.overlaps, len(held.overlaps)
    hit, ignored = np.zeros((len(IOUS), many), bool), np.zeros((len(IOUS), many), bool)
    if overlaps.size:
        free = np.ones((len(IOUS), overlaps.shape[1]), bool)
        for index in np.flatnonzero(overlaps.max(axis=1) >= IOUS[0] - 1e-9):
            level, box = _taken(overlaps[index], free, held.outside)
            hit[level, index] = ~held.outside[box]
            ignored[level, index] = held.outside[box]
            free[level, box] = held.crowd[box]
    ignored |= ~(hit | ignored) & held.beyond
    return hit & ~ignored, ~ignored


def _taken(overlaps: np.ndarray, free: np.ndarray, outside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At which overlaps a detection finds a box, and which: the best, of equal ones the last, one to be found before any other."""
    able = free & (overlaps >= np.minimum(IOUS, 1 - 1e-10)[:, None])
    worth = np.where(able, overlaps - 2.0 * outside, -np.inf)  # an overlap is 1 at most
    box = len(overlaps) - 1 - worth[:, ::-1].argmax(axis=1)
    level = np.flatnonzero(able.any(axis=1))
    return level, box[level]


def _joined(parts: Sequence[tuple[int, np.ndarray, np.ndarray, np.ndarray]], there: np.ndarray) -> OfLabel:
    def join(arrays: Iterator[np.ndarray], empty: np.ndarray) -> np.ndarray:
        return np.concatenate([empty, *arrays], axis=-1)

    none = np.zeros((len(IOUS), 0), bool)
    score = join((one for _, one, _, _ in parts), np.zeros(0))
    picture = join((np.full(len(one), number) for number, one, _, _ in parts), np.zeros(0, np.int64))
    hit, counted = join((one for _, _, one, _ in parts), none), join((one for _, _, _, one in parts), none)
    order = np.argsort(-score, kind="stable")
    return OfLabel(score[order], picture[order], hit[:, order], counted[:, order], there)
