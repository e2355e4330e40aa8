"""The elementwise product of the branches, with a linear attention layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from edgemm.workshop.models.layers.fusion import Mapped, product
from edgemm.workshop.models.protocols import Fusion


class Product(Fusion):
    """Branches, each mapped and squashed by tanh, multiplied; a linear layer then weighs every number of the product.

    Args:
        width: Size to which every branch is mapped.
        beside: Also pass the mapped branches on, beside their product. With the product alone, training may stay for long at what
            one branch knows, because a branch that is still useless multiplies the other away.
        dropout: Share of the values blanked in training.
    """

    def __init__(
        self, widths: Mapping[str, int], outputs: Sequence[str], *, width: int = 128, beside: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__(widths, outputs)
        self.mapped = Mapped(widths, width, "product")
        self.beside = beside
        inside = width * (1 + len(widths)) if beside else width
        self.attention = nn.Sequential(nn.Linear(inside, inside), nn.Sigmoid())
        self.finish = nn.Sequential(nn.Linear(inside, width), nn.ReLU(), nn.Dropout(dropout))
        self.width = width

    def forward(self, branches: dict[str, Tensor]) -> Tensor:
        mapped = [vector.tanh() for vector in self.mapped(branches).values()]
        fused = product(mapped)
        fused = torch.cat([fused, *mapped], dim=-1) if self.beside else fused
        return self.finish(fused * self.attention(fused))
