"""A model's answer -> the objects in it and where their points are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEAST = 1e-6  # a probability whose logarithm still says something
LEAST_SCORE = 0.01  # of a middle: less sure ones change no average precision, and a map that has learned nothing says so everywhere
HELD = 0.1  # a point's map that is nowhere surer holds no point: the centre's guess stays
NEAR = 0.25  # of an object's size: how far off a centre's guess of a point may be

Poses = np.ndarray
"""float32 (objects, 2 + 3 * points), best first: label number, score, then x, y (in pixels of the model's picture) and score a point."""


@dataclass(frozen=True)
class Form:
    """How a model answers with points.

    Attributes:
        layout: ``heatmaps``: (n, points, h, w), a map a point, one object a picture. ``centres``: (n, labels + 3 * points, h, w): where
            objects of each label have their middle, then a map a point, then how far each point is from the middle of a cell, in cells
            (x, y of the first, of the second, ...), which counts at middles alone. ``list``: (n, objects, labels + 3 * points): a score
            a label, then x, y and score of each point.
        scores: What scores and maps are: ``sigmoid`` = logits, or ``probability``.
        unit: Of x and y in a ``list``: pixels, or the ratio of width and height.
        width, height: Of the model's picture.
        most: Objects of a picture that are kept.
    """

    layout: str
    labels: int
    points: int
    width: int
    height: int
    scores: str = "sigmoid"
    unit: str = "pixels"
    most: int = 20

    @property
    def channels(self) -> int:
        """Numbers of a place, or of an object."""
        return self.points if self.layout == "heatmaps" else self.labels + 3 * self.points

    def words(self) -> str:
        """The shape of an answer in it."""
        return f"(N, objects, {self.channels})" if self.layout == "list" else f"(N, {self.channels}, height, width)"

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether answers of this shape may be in it."""
        if self.layout == "list":
            return len(shape) == 3 and shape[-1] == self.channels
        return len(shape) == 4 and shape[1] == self.channels


def poses(answer: np.ndarray, form: Form) -> Poses:
    """The objects of one picture.

    Args:
        answer: What ``form.layout`` says, without the axis of pictures.
    """
    answer = answer.astype(np.float32)
    if form.layout == "list":
        return _listed(answer, form)
    if form.layout == "heatmaps":
        maps = probabilities(answer, form.scores)
        found = np.stack([_peak(one, *np.unravel_index(one.argmax(), one.shape)) for one in maps])
        return _rows(np.zeros(1), found[None, :, 2].mean(axis=1), _in_pixels(found[None], answer.shape[1:], form))
    return _around_centres(answer, form)


def _listed(answer: np.ndarray, form: Form) -> Poses:
    scores = probabilities(answer[:, : form.labels], form.scores)
    points = answer[:, form.labels :].reshape(len(answer), form.points, 3).copy()
    points[..., 2] = probabilities(points[..., 2], form.scores)
    if form.unit == "ratio":
        points[..., :2] *= (form.width, form.height)
    label = scores.argmax(axis=1)
    return _best(_rows(label, scores.max(axis=1, initial=0.0), points), form.most)


def _around_centres(answer: np.ndarray, form: Form) -> Poses:
    """Source: Zhou et al. 2019, "Objects as Points": the point that a map shows nearest to where the middle expects it."""
    centres, maps, offsets = np.split(answer, [form.labels, form.labels + form.points])
    label, rows, columns, score = _middles(probabilities(centres, form.scores), form.most)
    offset = offsets.reshape(form.points, 2, *offsets.shape[1:])[:, :, rows, columns].transpose(2, 0, 1)
    expected = offset + np.stack([columns, rows], axis=-1)[:, None]
    points = (
        np.stack([_refined(one, probabilities(maps, form.scores)) for one in expected]) if len(label) else np.empty((0, form.points, 3))
    )
    return _best(_rows(label, score, _in_pixels(points, answer.shape[1:], form)), form.most)


def _middles(centres: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Label, row, column and score of the places that are surer than their eight neighbours, the best ``most`` of them."""
    around = np.pad(centres, ((0, 0), (1, 1), (1, 1)), constant_values=-1.0)
    high, wide = centres.shape[1:]
    surest = np.max([around[:, down : down + high, right : right + wide] for down in range(3) for right in range(3)], axis=0)
    label, rows, columns = np.nonzero((centres >= surest) & (centres > LEAST_SCORE))
    score = centres[label, rows, columns]
    best = np.lexsort((columns, rows, label, -score))[:most]
    return label[best], rows[best], columns[best], score[best]


def _refined(expected: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """(points, 2) in cells -> (points, 3) with a score: moved to what its map shows near by."""
    size = float(np.sqrt(np.prod(np.ptp(expected, axis=0)))) if len(expected) > 1 else 0.0
    radius = 1.0 + NEAR * size
    refined = np.empty((len(expected), 3))
    rows, columns = np.ogrid[: maps.shape[1], : maps.shape[2]]
    for point, ((x, y), one) in enumerate(zip(expected, maps, strict=True)):
        likely = one / (1 + (np.square(columns - x) + np.square(rows - y)) / radius**2)
        peak = _peak(one, *_top(one, *np.unravel_index(likely.argmax(), one.shape)))
        is_held = peak[2] > HELD and np.hypot(peak[0] - x, peak[1] - y) < 2 * radius
        refined[point] = peak if is_held else (x, y, likely.max())
    return refined


def _top(one: np.ndarray, row: np.intp, column: np.intp) -> tuple[int, int]:
    """The greatest of a cell and its eight neighbours: the expectation draws to its own side of a bell."""
    up, left = max(int(row) - 1, 0), max(int(column) - 1, 0)
    around = one[up : row + 2, left : column + 2]
    down, right = np.unravel_index(around.argmax(), around.shape)
    return up + int(down), left + int(right)


def _peak(one: np.ndarray, row: int | np.intp, column: int | np.intp) -> np.ndarray:
    """(3,) x, y in cells, and the map there: the top of the parabolas through the logarithm of a cell and its neighbours.

    Of a bell that is its very middle. Source: Zhang et al. 2020, "Distribution-Aware Coordinate Representation", axis by axis.
    """
    return np.array([column + _shift(one[row], int(column)), row + _shift(one[:, column], int(row)), one[row, column]])


def _shift(line: np.ndarray, place: int) -> float:
    if not 0 < place < len(line) - 1:
        return 0.0
    before, here, after = np.log(np.maximum(line[place - 1 : place + 2].astype(np.float64), LEAST))
    bend = before - 2 * here + after
    return float(np.clip((before - after) / (2 * bend), -0.5, 0.5)) if bend < 0 else 0.0


def _in_pixels(points: np.ndarray, cells: tuple[int, ...], form: Form) -> np.ndarray:
    """(objects, points, 3) in cells, counted from the first one's middle -> in pixels of the model's picture."""
    steps = np.array([form.width / cells[1], form.height / cells[0]])
    return np.concatenate([(points[..., :2] + 0.5) * steps, points[..., 2:]], axis=-1)


def probabilities(values: np.ndarray, scores: str) -> np.ndarray:
    """Of values that are ``sigmoid``'s logits, or probabilities already."""
    if scores == "probability":
        return values
    shares: np.ndarray = 1 / (1 + np.exp(-np.clip(values, -60, 60)))
    return shares


def _best(found: Poses, most: int) -> Poses:
    return found[np.argsort(-found[:, 1], kind="stable")[:most]]


def _rows(label: np.ndarray, score: np.ndarray, points: np.ndarray) -> Poses:
    return np.concatenate([label[:, None], score[:, None], points.reshape(len(label), int(np.prod(points.shape[1:])))], axis=1).astype(
        np.float32
    )
