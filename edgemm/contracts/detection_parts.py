"""What a report shows of the boxes that a model finds: each label's precision over recall, and the kinds of mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

RIGHT, LOOSE, WRONG_LABEL, DOUBLE, BACKGROUND, BOTH, MISSED = (
    "right", "loose box", "wrong label", "double", "background", "wrong label and loose", "missed"
)  # fmt: skip
KINDS = {
    RIGHT: "finds a box of its label, at an overlap of at least 0.5",
    LOOSE: "lies on a box of its label, at an overlap of 0.1 to 0.5",
    WRONG_LABEL: "finds a box of another label",
    DOUBLE: "finds a box that a surer one has found",
    BACKGROUND: "lies on nothing, at an overlap of less than 0.1",
    BOTH: "lies on a box of another label, at an overlap of 0.1 to 0.5",
    MISSED: "a box that nothing finds, and on which nothing loose or of another label lies",
}
"""Kind of a detection, or of a box to be found (the last) -> what it means, as the report words it."""


@dataclass(frozen=True)
class LabelFound:
    """What the boxes of one label come to. Shares are 0 to 1; NaN where no row has a box of it.

    Attributes:
        there: Boxes to be found.
        ap, ap50: Average precision over overlaps of 0.5 to 0.95, and at 0.5.
        threshold: The score of the best F1 on these rows; ``precision`` and ``recall`` are those from it on, at an overlap of 0.5.
        curve: The best precision at an overlap of 0.5 at recalls of 0, 0.01 ... 1, or beyond; 0 where that recall is never reached.
    """

    label: str
    there: int
    ap: float
    ap50: float
    threshold: float
    precision: float
    recall: float
    curve: Sequence[float] = ()


@dataclass(frozen=True)
class Found:
    """What one form's boxes come to on the test rows.

    Attributes:
        mistakes: One of ``KINDS`` -> how many, from each label's threshold on.
    """

    labels: Sequence[LabelFound]
    mistakes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Detected:
    """What an output finds; ``before`` is the original's, where it is known."""

    after: Found
    before: Found | None = None
