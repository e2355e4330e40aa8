"""What a frozen tower gave for a text: the same text gives it again, so training computes it once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

MOST = 1 << 15  # vectors that are kept: 50 MB of 384 numbers each


class Remembered:
    """Vectors by token ids. They are forgotten when the tower's weights change."""

    def __init__(self) -> None:
        self._vectors: dict[bytes, Tensor] = {}
        self._weights: tuple[tuple[int, int], ...] = ()

    def __call__(self, tower: nn.Module, ask: Callable[[Tensor], Tensor], ids: Tensor) -> Tensor:
        """(N, length) -> (N, width), without a gradient.

        Args:
            ask: Gives the tower's vectors of some of the rows, by their numbers.
        """
        weights = tuple((id(value), value._version) for value in tower.parameters())
        if weights != self._weights or len(self._vectors) > MOST:
            self._vectors, self._weights = {}, weights
        keys = [row.tobytes() for row in ids.cpu().numpy()]
        new = {key: number for number, key in enumerate(keys) if key not in self._vectors}
        if new:
            with torch.no_grad():
                vectors = ask(torch.tensor(list(new.values()), device=ids.device))
            self._vectors |= dict(zip(new, vectors, strict=True))
        return torch.stack([self._vectors[key] for key in keys]).to(ids.device)
