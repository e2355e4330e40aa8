"""What fusions share that keep space: vectors that speak to maps, and the choice of the picture that answers are about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgemm.errors import CardError, nearest
from edgemm.workshop.models.protocols import Maps


class Modulation(nn.Module):
    """Each channel of each map times 1 + scale, plus shift, which a linear layer makes of the other inputs' vectors.

    Args:
        widths: Input name -> size of its vector, of the inputs that speak; {} changes nothing.
        channels: Of each map.
        dropout: Share of the vectors' values blanked in training.

    Source: Perez et al. 2018, "FiLM: Visual Reasoning with a General Conditioning Layer".
    """

    def __init__(self, widths: Mapping[str, int], channels: Sequence[int], dropout: float = 0.0) -> None:
        super().__init__()
        self.names = tuple(widths)
        self.dropout = nn.Dropout(dropout)
        inside = sum(widths.values())
        self.scales = nn.ModuleList(_Said(inside, size, around=1.0) for size in channels if widths)
        self.shifts = nn.ModuleList(_Said(inside, size, around=0.0) for size in channels if widths)

    def forward(self, maps: Sequence[Tensor], branches: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """(N, channels, H, W) each, and the branches as a fusion gets them -> the maps, changed."""
        if not self.names:
            return tuple(maps)
        vectors = [vector_of(branches[name]) for name in self.names]
        vector = self.dropout(torch.cat(vectors, -1) if len(vectors) > 1 else vectors[0])
        return tuple(x * scale(vector) + shift(vector) for x, scale, shift in zip(maps, self.scales, self.shifts, strict=True))


class _Said(nn.Module):
    """A number for each channel. A module of its own, so that where one input alone speaks its branch ends in what it says."""

    def __init__(self, inside: int, channels: int, *, around: float) -> None:
        super().__init__()
        self.linear, self.around = nn.Linear(inside, channels), around

    def forward(self, vector: Tensor) -> Tensor:
        """(N, inside) -> (N, channels, 1, 1)."""
        return (self.linear(vector) + self.around).unsqueeze(-1).unsqueeze(-1)


def vector_of(branch: Any) -> Tensor:
    """(N, width): a branch's vector, or the mean over its coarsest map."""
    return branch[-1].mean((2, 3)) if isinstance(branch, tuple) else branch


def picture_of(maps: Mapping[str, Maps], chosen: str | None, fusion: str, otherwise: str) -> Maps:
    """The maps of the picture that answers are about: the one that gives maps, or of several the one that is chosen.

    Args:
        otherwise: What to do with several pictures instead of choosing one.

    Raises:
        CardError: There is none, or no telling which.
    """
    if not maps:
        raise CardError(
            f"fusion '{fusion}': no input has feature maps.",
            why="it keeps the space of a picture, and no encoder of this card gives maps of one.",
            fix="write under kwargs.encoders an encoder that gives maps, such as c2f, for the picture.",
        )
    if chosen is not None and chosen not in maps:
        raise CardError(f"fusion '{fusion}': picture names '{chosen}', no input with feature maps.", fix=nearest(chosen, maps))
    if chosen is None and len(maps) > 1:
        raise CardError(
            f"fusion '{fusion}': {', '.join(repr(name) for name in maps)} have feature maps.",
            why="answers are about one of these pictures.",
            fix=f"write picture: {next(iter(maps))}, {otherwise}.",
        )
    return maps[chosen or next(iter(maps))]
