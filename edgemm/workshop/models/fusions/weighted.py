"""The weighted mean of the branches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from edgemm.errors import CardError
from edgemm.workshop.models.layers.fusion import Mapped, require_inputs, total
from edgemm.workshop.models.protocols import Fusion


class Weighted(Fusion):
    """Each branch counts with a weight of its own (with two branches: alpha and 1 - alpha).

    Args:
        weights: Input name -> weight above 0; scaled to sum 1. None starts with equal weights.
        learned: Training moves the weights; otherwise they stay.
        width: Map every branch to this size first; None takes branches of equal width as they are.
        dropout: Share of the values blanked in training.

    Raises:
        CardError: ``weights`` misses an input, names an unknown one, or holds a number that is not above 0.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        outputs: Sequence[str],
        *,
        weights: dict[str, float] | None = None,
        learned: bool = True,
        width: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(widths, outputs)
        initial_weights = dict.fromkeys(widths, 1.0) if weights is None else weights
        require_inputs(initial_weights, widths, "fusion 'weighted': weights")
        for name, weight in initial_weights.items():
            if not weight > 0:
                raise CardError(f"fusion 'weighted': weights.{name}: {weight} is not above 0.", fix="leave the input out of the card.")
        self.mapped = Mapped(widths, width, "weighted")
        self.width = self.mapped.width
        logits = torch.tensor([float(initial_weights[name]) for name in widths]).log()
        self.logits = nn.Parameter(logits, requires_grad=learned)
        self.finish = nn.Sequential(nn.ReLU(), nn.Dropout(dropout))

    def forward(self, branches: dict[str, Tensor]) -> Tensor:
        alphas = self.logits.softmax(0)
        mapped = self.mapped(branches)
        return self.finish(total([mapped[name] * alphas[number] for number, name in enumerate(mapped)]))
