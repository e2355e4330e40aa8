"""Parts of a loss: their means over an epoch, their sum over truths that are mixed, and the weights that a loss has of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from edgemm.workshop.training.task_losses import LossHook


class LossParts:
    """Means over an epoch of the parts of a loss that has several; no part is moved off its device before the end."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._rows: dict[str, int] = {}

    def add(self, parts: Mapping[str, torch.Tensor], rows: int) -> None:
        for name, part in parts.items():
            self._sums[name] = self._sums.get(name, 0.0) + part.detach() * rows
            self._rows[name] = self._rows.get(name, 0) + rows

    def means(self) -> dict[str, float]:
        if len(self._sums) < 2:
            return {}
        return {f"parts of the loss/{name}": float(total) / self._rows[name] for name, total in self._sums.items()}


def weighed(weighted: Sequence[tuple[float, Mapping[str, torch.Tensor]]]) -> Mapping[str, torch.Tensor]:
    """Part by part; one alone as it is."""
    if len(weighted) == 1:
        return weighted[0][1]
    return {name: torch.stack([share * parts[name] for share, parts in weighted]).sum() for name in weighted[0][1]}


def own(losses: LossHook) -> nn.Module:
    """The loss where it is a module with parameters of its own; else one without any."""
    return losses if isinstance(losses, nn.Module) else nn.Module()
