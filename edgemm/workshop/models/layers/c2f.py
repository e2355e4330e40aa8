"""What detectors are made of: blocks of convolutions that keep their parts, and a pyramid over maps of several strides."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from edgemm.errors import CardError
from edgemm.workshop.models.layers.encoder import conv_norm
from edgemm.workshop.models.protocols import Maps


def conv_relu(inside: int, outside: int, kernel: int = 1, *, stride: int = 1) -> nn.Sequential:
    """Convolution that keeps the size (over ``stride``), batch norm, ReLU.

    ReLU and no SiLU: its range begins at 0, so INT8 keeps all 8 bits for it, and a processor gets it for nothing behind the convolution.
    """
    return nn.Sequential(*conv_norm(inside, outside, kernel, stride=stride), nn.ReLU())


class C2f(nn.Module):
    """Half of the channels goes through ``blocks`` residual blocks; what each of them makes is kept and joined at the end.

    Source: block of YOLOv8 (Jocher et al. 2023), after the ELAN of Wang et al. 2022.
    """

    def __init__(self, inside: int, outside: int, blocks: int = 1, *, shortcut: bool = True) -> None:
        super().__init__()
        half = max(outside // 2, 1)
        self.spread = conv_relu(inside, 2 * half)
        self.blocks = nn.ModuleList(_Block(half, shortcut=shortcut) for _ in range(blocks))
        self.join = conv_relu((2 + blocks) * half, outside)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inside, H, W) -> (N, outside, H, W)."""
        parts = list(self.spread(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.join(torch.cat(parts, 1))


class _Block(nn.Module):
    def __init__(self, width: int, *, shortcut: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(conv_relu(width, width, 3), conv_relu(width, width, 3))
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.shortcut else self.layers(x)


class Pyramid(nn.Module):
    """Maps of several strides tell each other what they see: from coarse to fine, and back. All come out with ``width`` channels.

    Args:
        blocks: Of each ``C2f``.

    Raises:
        CardError: The picture cannot be halved that often, or a stride is not twice the one before.

    Source: Lin et al. 2017, "Feature Pyramid Networks for Object Detection"; the way back: Liu et al. 2018, "Path Aggregation Network".
    """

    def __init__(self, maps: Maps, width: int, blocks: int = 1) -> None:
        super().__init__()
        _require_halves(maps)
        levels = range(len(maps.channels) - 1)
        self.lateral = nn.ModuleList(conv_relu(channels, width) for channels in maps.channels)
        self.finer = nn.ModuleList(C2f(2 * width, width, blocks, shortcut=False) for _ in levels)
        self.halve = nn.ModuleList(conv_relu(width, width, 3, stride=2) for _ in levels)
        self.coarser = nn.ModuleList(C2f(2 * width, width, blocks, shortcut=False) for _ in levels)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """(N, channels, H, W) each, the finest first -> (N, width, H, W) each."""
        seen = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for level in reversed(range(len(self.finer))):
            above = nn.functional.interpolate(seen[level + 1], scale_factor=2.0)
            seen[level] = self.finer[level](torch.cat([above, seen[level]], 1))
        for level, (halve, join) in enumerate(zip(self.halve, self.coarser, strict=True)):
            seen[level + 1] = join(torch.cat([halve(seen[level]), seen[level + 1]], 1))
        return tuple(seen)


def _require_halves(maps: Maps) -> None:
    high, wide = maps.size
    coarsest = maps.strides[-1]
    if any(2 * fine != coarse for fine, coarse in pairwise(maps.strides)):
        raise CardError(f"the maps of '{maps.input}' have strides {maps.strides}.", fix="take an encoder that halves its map each time.")
    if high % coarsest or wide % coarsest:
        nearest = " x ".join(str(max(1, round(side / coarsest)) * coarsest) for side in (high, wide))
        raise CardError(
            f"inputs.{maps.input}: a picture of {high} x {wide} pixels has no maps that fit each other.",
            why=f"the coarsest cell spans {coarsest} pixels, and maps are doubled on the way back.",
            fix=f"set height and width to multiples of {coarsest}, such as {nearest}.",
        )
