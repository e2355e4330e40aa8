"""The forms in which models answer with boxes and scores, and the one way from each of them to boxes in pixels and probabilities.

It is written with operators and an array namespace, so that a loss in torch decodes with the same lines as a box with numpy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from edgemm.data.boxes.layout import BOXES, JOINED, OBJECTNESS, OF_PLACES, SCORED, Layout
from edgemm.data.boxes.shapes import misplaced, rows


class Namespace(Protocol):
    """What ``decode`` asks of an array library beside operators, indexing, ``reshape``, ``swapaxes`` and ``sum(axis)``."""

    def exp(self, array: Any) -> Any: ...
    def sigmoid(self, array: Any) -> Any: ...
    def softmax(self, array: Any) -> Any:
        """Over the last axis."""
        ...

    def concatenate(self, arrays: Sequence[Any], axis: int) -> Any: ...
    def constant(self, array: np.ndarray, like: Any) -> Any:
        """float32 numbers as the library has them, where ``like`` is."""
        ...


class Numpy(Namespace):
    """numpy's."""

    def exp(self, array: np.ndarray) -> np.ndarray:
        raised: np.ndarray = np.exp(np.minimum(array, np.float32(60)))  # e to the 60 is a box of 10^26 pixels, and a number
        return raised

    def sigmoid(self, array: np.ndarray) -> np.ndarray:
        share: np.ndarray = 1 / (1 + np.exp(-np.clip(array, -88, 88)))
        return share

    def softmax(self, array: np.ndarray) -> np.ndarray:
        raised = np.exp(array - array.max(axis=-1, keepdims=True))
        shares: np.ndarray = raised / raised.sum(axis=-1, keepdims=True)
        return shares

    def concatenate(self, arrays: Sequence[np.ndarray], axis: int) -> np.ndarray:
        return np.concatenate(arrays, axis=axis)

    def constant(self, array: np.ndarray, like: np.ndarray) -> np.ndarray:
        return np.asarray(array, np.float32)


NUMPY = Numpy()


@dataclass(frozen=True)
class Raw:
    """What a model answered, place by place, before anything is computed of it.

    Attributes:
        boxes: (N, A, 4), in form ``dfl`` (N, A, 4 * bins): all bins of the left side first.
        scores: (N, A, C), one more where one of them stands for nothing.
        objectness: (N, A, 1), or None.
        grids: Rows and columns of each level's places; of a level whose tensor is flat (0, its places).
    """

    boxes: Any
    scores: Any
    objectness: Any | None
    grids: tuple[tuple[int, int], ...]


def decode(answers: Mapping[str, Any], layout: Layout, xp: Namespace = NUMPY) -> tuple[Any, Any]:
    """Boxes and scores of a model's answers.

    Args:
        answers: Tensor name -> (N, ...), float32.

    Returns:
        Boxes (N, A, 4): x0 y0 x1 y1 in pixels of the model's picture, not clipped; scores (N, A, C), probabilities.

    Raises:
        CardError: A shape does not fit; says what nearly does.
    """
    parts = raw(answers, layout, xp)
    return corners(parts, layout, xp), probabilities(parts, layout, xp)


def raw(answers: Mapping[str, Any], layout: Layout, xp: Namespace = NUMPY) -> Raw:
    """The numbers of each place, whatever axes they lay on.

    Raises:
        CardError: As ``decode``.
    """
    grids: tuple[tuple[int, int], ...] = ()
    found: dict[str, Any] = {}
    for part, names in layout.parts.items():
        levels = [rows(answers[name], name, part, layout) for name in names]
        grids = tuple(grid for _, grid in levels)
        found[part] = levels[0][0] if len(levels) == 1 else xp.concatenate([level for level, _ in levels], 1)
    if JOINED in found:
        joined, box = found[JOINED], layout.box_width
        has_objectness = joined.shape[-1] == box + 1 + layout.score_width
        begin = box + has_objectness
        objectness = joined[..., box : box + 1] if has_objectness else None
        return Raw(joined[..., :box], joined[..., begin:], objectness, grids)
    return Raw(found[BOXES], found[SCORED], found.get(OBJECTNESS), grids)


def probabilities(parts: Raw, layout: Layout, xp: Namespace = NUMPY) -> Any:
    """(N, A, C), of the classes alone."""
    turned = {"probability": lambda x: x, "sigmoid": xp.sigmoid}.get(layout.scores, xp.softmax)
    scores = turned(parts.scores)
    if layout.nothing is not None:
        scores = scores[..., 1:] if layout.nothing == "first" else scores[..., :-1]
    if parts.objectness is None:
        return scores
    joint = scores * (parts.objectness if layout.scores == "probability" else xp.sigmoid(parts.objectness))
    return joint**0.5 if layout.objectness == "root" else joint


def corners(parts: Raw, layout: Layout, xp: Namespace = NUMPY) -> Any:
    """(N, A, 4) x0 y0 x1 y1 in pixels of the model's picture."""
    boxes = parts.boxes
    if layout.form in OF_PLACES:
        return _of_places(boxes, parts, layout, xp)
    if layout.form == "yxyx":
        boxes = boxes[..., [1, 0, 3, 2]]
    if layout.form == "cxcywh":
        half = boxes[..., 2:] / 2
        boxes = xp.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], -1)
    if layout.unit == "ratio":
        boxes = boxes * xp.constant(np.array([layout.width, layout.height] * 2), boxes)
    return boxes


def _of_places(boxes: Any, parts: Raw, layout: Layout, xp: Namespace) -> Any:
    middles, strides = places(layout, parts.grids, int(boxes.shape[1]))
    middle, stride = xp.constant(middles, boxes), xp.constant(strides[:, None], boxes)
    unit: Any = stride if layout.unit == "stride" else 1
    if layout.unit == "ratio":
        unit = xp.constant(np.array([layout.width, layout.height]), boxes)
    if layout.form == "grid":
        centre, half = middle - stride / 2 + boxes[..., :2] * unit, xp.exp(boxes[..., 2:]) * unit / 2
        return xp.concatenate([centre - half, centre + half], -1)
    sides = boxes
    if layout.form == "dfl":
        shares = xp.softmax(boxes.reshape(*boxes.shape[:-1], 4, layout.bins))
        sides = (shares * xp.constant(np.arange(layout.bins), boxes)).sum(-1)
    return xp.concatenate([middle - sides[..., :2] * unit, middle + sides[..., 2:] * unit], -1)


def places(layout: Layout, grids: Sequence[tuple[int, int]], count: int) -> tuple[np.ndarray, np.ndarray]:
    """The middle of every place in pixels of the model's picture, (A, 2), and its stride, (A,); level by level, row by row.

    Args:
        grids: Rows and columns of each level where its tensor tells them (``Raw.grids``).

    Raises:
        CardError: They are not ``count``; says for which strides they would be.
    """
    middles, steps = [], []
    for level, stride in enumerate(layout.strides):
        high, wide = grids[level] if len(grids) == len(layout.strides) and grids[level][0] else layout.grid(stride)
        y, x = np.mgrid[0:high, 0:wide].reshape(2, -1)
        middles.append((np.stack([x, y], axis=1) + 0.5) * stride)
        steps.append(np.full(len(x), stride))
    if sum(map(len, steps)) != count:
        raise misplaced(layout, count)
    return np.concatenate(middles).astype(np.float32), np.concatenate(steps).astype(np.float32)
