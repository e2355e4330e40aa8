"""What a model costs with some channels gone: multiply-accumulates and parameters, counted without running it."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from edgemm.workshop.pruning.layers import Layer, Structure


class Costs:
    """Counts for one structure; every count takes the set of removed channels."""

    def __init__(self, structure: Structure) -> None:
        self._found = structure
        self._top = 1 + max((int(roots.max(initial=0)) for roots in structure.slots.values()), default=0)

    def macs(self, removed: Collection[int] = ()) -> dict[str, float]:
        """Branch -> multiply-accumulates for one sample: convolutions, linear and recurrent layers, products of activations."""
        stays = self._stays(removed)
        totals: dict[str, float] = {}
        for branch, macs, labels in self._found.works:
            share = math.prod(float(stays[np.minimum(roots, self._top)].mean()) for roots in labels)
            totals[branch] = totals.get(branch, 0.0) + macs * share
        return totals

    def parameters(self, removed: Collection[int] = ()) -> dict[str, int]:
        """Branch -> numbers in its parameters and buffers that the graph reads."""
        stays = self._stays(removed)
        totals: dict[str, int] = {}
        for name, branch in self._found.parts.of_parameter.items():
            if name not in self._found.shapes:
                continue
            sizes = list(self._found.shapes[name])
            for axis in range(len(sizes)):
                roots = self._found.slots.get((name, axis))
                if roots is not None:
                    sizes[axis] = int(stays[roots].sum())
            totals[branch] = totals.get(branch, 0) + math.prod(sizes)
        return totals

    def total_macs(self, removed: Collection[int] = ()) -> float:
        return sum(self.macs(removed).values())

    def per_channel(self, layer: Layer) -> float:
        """Multiply-accumulates and parameters that one channel of a layer costs, while all others are there.

        A parameter counts like a multiply-accumulate, so that an embedding, which has none, is not free.
        """
        count = max(1, layer.width // 8)
        gone = layer.roots[:count]
        saved = self.total_macs() - self.total_macs(gone)
        saved += sum(self.parameters().values()) - sum(self.parameters(gone).values())
        return max(1.0, saved / count)

    def _stays(self, removed: Collection[int]) -> np.ndarray:
        """1 for what stays; 0 is a fixed position, and everything past the slots' channels stays."""
        stays = np.ones(self._top + 1)
        stays[np.fromiter(removed, np.int64, len(removed))] = 0
        return stays
