"""Gates decide, sample by sample, how much each branch counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from edgemm.workshop.models.layers.fusion import Mapped, total
from edgemm.workshop.models.protocols import Fusion


class Gated(Fusion):
    """Mapped branches, each times its gate, added up. The gates look at all branches.

    Args:
        gate: ``scalar`` = one number a branch, the numbers of all branches sum to 1; ``vector`` = one number for every entry of
            the branch's vector, each between 0 and 1.
        width: Size to which every branch is mapped, and of the vector it gives.
        dropout: Share of the values blanked in training.

    Source: Arevalo et al. 2017, "Gated Multimodal Units for Information Fusion".
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        outputs: Sequence[str],
        *,
        gate: Literal["scalar", "vector"] = "scalar",
        width: int = 128,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(widths, outputs)
        self.mapped = Mapped(widths, width, "gated")
        self.activation = nn.ReLU()
        self.width = width
        self.scalar = gate == "scalar"
        inside = width * len(widths)
        self.gates = nn.ModuleDict({name: nn.Linear(inside, width) for name in widths} if not self.scalar else {})
        self.gate = nn.Linear(inside, len(widths)) if self.scalar else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, branches: dict[str, Tensor]) -> Tensor:
        mapped = {name: self.activation(vector) for name, vector in self.mapped(branches).items()}
        together = torch.cat(list(mapped.values()), dim=-1)
        if self.gate is not None:
            shares = self.gate(together).softmax(-1)
            return self.dropout(total([vector * shares[:, number : number + 1] for number, vector in enumerate(mapped.values())]))
        return self.dropout(total([vector * self.gates[name](together).sigmoid() for name, vector in mapped.items()]))
