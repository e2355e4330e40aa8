"""Names that an output's vector is held against while running: of a gallery, or new words. They may change without a new bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgemm.contracts.decision import Observation
from edgemm.contracts.task import Arrays, Entity

UNKNOWN = "unknown"
"""What leads where nothing known is near enough."""
APART = -1.0
"""The score of a name that others are nearer than: opposite vectors have this cosine."""


@dataclass(frozen=True)
class Names:
    """What is read in the place of what the card says of an output.

    Attributes:
        labels: In the order in which they are shown.
        reads: The tensor that ``read`` wants.
        read: One answer -> the score of each label.
        is_like: Scores are cosines with known things: only the nearest is ever on, and where it is not near enough none is.
        threshold: The score from which a label counts where the settings say none; None = as everywhere.
    """

    labels: tuple[str, ...]
    reads: str
    read: Callable[[Arrays], Observation]
    is_like: bool = False
    threshold: float | None = None

    def entities(self) -> Sequence[Entity]:
        """A switch a name, and the one that leads."""
        leads = (*self.labels, UNKNOWN) if self.is_like else self.labels
        return [*(Entity(label, "on_off") for label in self.labels), Entity("scene", "word", leads)]
