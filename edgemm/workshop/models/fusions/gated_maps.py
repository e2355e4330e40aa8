"""Several cameras of one scene: place by place a gate decides how much each of them counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from edgemm.errors import CardError
from edgemm.workshop.models.layers.c2f import Pyramid
from edgemm.workshop.models.layers.encoder import conv_norm
from edgemm.workshop.models.layers.film import Modulation, picture_of
from edgemm.workshop.models.layers.fusion import total
from edgemm.workshop.models.protocols import Fusion, Maps


class GatedMaps(Fusion):
    """Maps of equal size, each place of each camera times its gate, added up; then a feature pyramid. The gates look at all cameras.

    Inputs without maps scale and shift the channels behind it, as in ``film``.

    Args:
        picture: The input that answers are about; None = the first that has maps.
        width: Channels of every map it gives.
        blocks: Residual blocks in each join of the pyramid.
        dropout: Share of the other inputs' values blanked in training.

    Raises:
        CardError: Fewer than two inputs with maps, or maps of different size.

    Source: gates over modalities of Arevalo et al. 2017, "Gated Multimodal Units for Information Fusion", at every place of a map.
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
        blocks: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(widths, outputs)
        seen = picture_of(maps, picture or next(iter(maps), None), "gated_maps", "")
        _require_alike(maps)
        self.mapped = nn.ModuleDict(
            {
                name: nn.ModuleList(conv_norm(own, size, 1) for own, size in zip(of.channels, seen.channels, strict=True))
                for name, of in maps.items()
            }
        )
        self.gates = nn.ModuleList(nn.Conv2d(size * len(maps), len(maps), 1) for size in seen.channels)
        self.pyramid = Pyramid(seen, width, blocks)
        self.maps = replace(seen, channels=(width,) * len(seen.channels))
        self.behind = Modulation({name: size for name, size in widths.items() if name not in maps}, self.maps.channels, dropout)
        self.width = width

    def forward(self, branches: dict[str, Any]) -> tuple[Tensor, ...]:
        joined = []
        for level, gate in enumerate(self.gates):
            seen = [cast(nn.ModuleList, self.mapped[name])[level](branches[name][level]) for name in self.mapped]
            shares = gate(torch.cat(seen, 1)).softmax(1)
            joined.append(total([x * shares[:, number : number + 1] for number, x in enumerate(seen)]).relu())
        return self.behind(self.pyramid(joined), branches)


def _require_alike(maps: Mapping[str, Maps]) -> None:
    if len(maps) < 2:
        raise CardError(
            "fusion 'gated_maps': one input has feature maps.",
            why="it weighs several cameras against each other.",
            fix="write fusion: film for one picture, or give the other pictures an encoder with maps, such as c2f.",
        )
    first, *others = maps.values()
    for other in others:
        if other.cells != first.cells:
            raise CardError(
                f"fusion 'gated_maps': the maps of '{first.input}' and '{other.input}' have different sizes.",
                why=f"they have {_listed(first)} cells, and {_listed(other)}.",
                fix="give both pictures one height and width, and their encoders as many stages and levels.",
            )


def _listed(maps: Maps) -> str:
    return " and ".join(f"{high} x {wide}" for high, wide in maps.cells)
