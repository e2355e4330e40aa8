"""How boxes and scores lie in a model's answers: what a card says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

KINDS = ("yolo", "objectness", "levels", "set")
FORMS = ("xyxy", "yxyx", "cxcywh", "ltrb", "dfl", "grid")
UNITS = ("pixels", "ratio", "stride")
SCORES = ("probability", "sigmoid", "softmax", "softmax_with_nothing")
JOINED, BOXES, SCORED, OBJECTNESS = "joined", "boxes", "scores", "objectness"
JOINS = ("product", "root")
"""How a score and its objectness become one: multiplied, or the root of that (YuNet)."""
PARTS = (JOINED, BOXES, SCORED, OBJECTNESS)
OF_PLACES = ("ltrb", "dfl", "grid")
"""Forms that count from the place in the grid where they stand."""
BINS = 16  # what YOLOv8 and its heirs have, where a card names none


@dataclass(frozen=True)
class Layout:
    """How boxes and scores lie in a model's answers.

    Attributes:
        kind: ``yolo``: one tensor, boxes and scores of a place one after the other; ``objectness``: the same with one more score between
            them, which the others are multiplied by; ``levels``: tensors for each step of a pyramid; ``set``: a few predictions, each of
            a thing of its own.
        labels: How many classes.
        parts: ``joined``, or ``boxes`` and ``scores`` and perhaps ``objectness`` -> names of tensors, one a level.
        width, height: Of the model's picture in pixels.
        form: ``xyxy``; ``yxyx`` as TensorFlow's models have it; ``cxcywh``; ``ltrb`` distances from the middle of the place; ``dfl`` a
            distribution over ``bins`` for each of those; ``grid``: the centre counted from the place's corner and the logarithms of the
            sizes (YOLOX, YuNet).
        unit: What one is: a pixel, the whole picture, the stride of the level.
        strides: Pixels between two places, of each level.
        scores: What the numbers are before they are probabilities.
        objectness: One of ``JOINS``.
        nothing: Whether one score stands for no thing at all, and where: ``first`` or ``last``.
    """

    kind: str
    labels: int
    parts: Mapping[str, tuple[str, ...]]
    width: int = 0
    height: int = 0
    form: str = "cxcywh"
    unit: str = "pixels"
    bins: int = BINS
    strides: tuple[int, ...] = ()
    scores: str = "probability"
    nothing: str | None = None
    objectness: str = "product"

    def grid(self, stride: int) -> tuple[int, int]:
        """Rows and columns of a level: a place begins every ``stride`` pixels."""
        return -(-self.height // stride), -(-self.width // stride)

    @property
    def box_width(self) -> int:
        """Numbers that say one box."""
        return 4 * self.bins if self.form == "dfl" else 4

    @property
    def score_width(self) -> int:
        """Numbers that score one box, without its objectness."""
        return self.labels + (self.nothing is not None)

    def widths(self, part: str) -> tuple[int, ...]:
        """How many numbers a place may have in a tensor of ``part``."""
        both = self.box_width + self.score_width
        joined = {"yolo": (both,), "objectness": (both + 1,), "levels": (both, both + 1), "set": (both,)}[self.kind]
        return {JOINED: joined, BOXES: (self.box_width,), SCORED: (self.score_width,), OBJECTNESS: (1,)}[part]
