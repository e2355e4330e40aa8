"""The mean of the branches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from edgemm.workshop.models.layers.fusion import Mapped, total
from edgemm.workshop.models.protocols import Fusion


class Average(Fusion):
    """Every branch counts the same.

    Args:
        width: Map every branch to this size first; None takes branches of equal width as they are.
        dropout: Share of the values blanked in training.
    """

    def __init__(self, widths: Mapping[str, int], outputs: Sequence[str], *, width: int | None = None, dropout: float = 0.0) -> None:
        super().__init__(widths, outputs)
        self.mapped = Mapped(widths, width, "average")
        self.width = self.mapped.width
        self.finish = nn.Sequential(nn.ReLU(), nn.Dropout(dropout))

    def forward(self, branches: dict[str, Tensor]) -> Tensor:
        return self.finish(total(list(self.mapped(branches).values())) * (1.0 / len(branches)))
