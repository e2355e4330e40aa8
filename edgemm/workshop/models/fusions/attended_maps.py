"""Several cameras that see a scene from different places: each cell of one looks for what the others see of it, wherever that lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgemm.errors import CardError
from edgemm.workshop.models.attention import Attention
from edgemm.workshop.models.layers.c2f import Pyramid
from edgemm.workshop.models.layers.film import Modulation, picture_of
from edgemm.workshop.models.protocols import Fusion, Maps


class AttendedMaps(Fusion):
    """Cells of the chosen picture's maps look at the cells of the other pictures' coarsest maps; then a feature pyramid.

    Unlike ``gated_maps`` no place of one camera stands for the same place of another, and pictures may differ in size. Where things are is
    learned with the places, of fixed cameras. Inputs without maps scale and shift the channels behind it, as in ``film``.

    Args:
        picture: The input that answers are about; None = the first that has maps.
        width: Channels of every map it gives.
        heads: Attention heads; divides ``width``.
        blocks: Residual blocks in each join of the pyramid.
        dropout: Share of the other inputs' values blanked in training.

    Raises:
        CardError: Fewer than two inputs with maps, or a picture that cannot be halved often enough.

    Source: cross attention of Tsai et al. 2019, "Multimodal Transformer for Unaligned Multimodal Language Sequences", between maps.
    """

    takes_maps: ClassVar[bool] = True

    def __init__(
        self,
        widths: Mapping[str, int],
        outputs: Sequence[str],
        maps: Mapping[str, Maps],
        *,
        picture: str | None = None,
        width: int = 64,
        heads: int = 4,
        blocks: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(widths, outputs)
        seen = picture_of(maps, picture or next(iter(maps), None), "attended_maps", "")
        if len(maps) < 2:
            raise CardError(
                "fusion 'attended_maps': one input has feature maps.",
                why="one camera looks at what others see.",
                fix="write fusion: film for one picture, or give the other pictures an encoder with maps, such as c2f.",
            )
        self.picture, self.width = seen.input, width
        self.sources = nn.ModuleDict(
            {name: _Cells(of.channels[-1], width, of.cells[-1]) for name, of in maps.items() if name != seen.input}
        )
        self.asking = nn.ModuleList(_Cells(size, width, cells) for size, cells in zip(seen.channels, seen.cells, strict=True))
        self.attention = nn.ModuleList(Attention(width, heads) for _ in seen.channels)
        self.back = nn.ModuleList(nn.Linear(width, size) for size in seen.channels)
        self.pyramid = Pyramid(seen, width, blocks)
        self.maps = replace(seen, channels=(width,) * len(seen.channels))
        self.behind = Modulation({name: size for name, size in widths.items() if name not in maps}, self.maps.channels, dropout)

    def forward(self, branches: dict[str, Any]) -> tuple[Tensor, ...]:
        others = [cells(branches[name][-1]) for name, cells in self.sources.items()]
        source = torch.cat(others, 1) if len(others) > 1 else others[0]
        joined = []
        for x, asking, attention, back in zip(branches[self.picture], self.asking, self.attention, self.back, strict=True):
            found = back(attention(asking(x), source)).transpose(1, 2)
            joined.append(x + found.unflatten(2, x.shape[2:]))
        return self.behind(self.pyramid(joined), branches)


class _Cells(nn.Module):
    """(N, channels, H, W) -> (N, H * W, width): each cell with what is known of its place."""

    def __init__(self, channels: int, width: int, cells: tuple[int, int]) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(channels, width), nn.LayerNorm(width)
        self.places = nn.Parameter(torch.randn(cells[0] * cells[1], width) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        mapped: Tensor = self.norm(self.linear(x.flatten(2).transpose(1, 2)) + self.places)
        return mapped
