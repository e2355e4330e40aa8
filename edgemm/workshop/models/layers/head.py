"""What several heads share: an optional hidden layer before the last one."""

from __future__ import annotations

from torch import nn


def layers(width: int, size: int, hidden: int, dropout: float) -> nn.Sequential:
    """``width`` -> [``hidden`` with ReLU ->] ``size``; ``hidden`` 0 leaves that layer out."""
    first: list[nn.Module] = [nn.Linear(width, hidden), nn.ReLU()] if hidden else []
    return nn.Sequential(*first, nn.Dropout(dropout), nn.Linear(hidden or width, size))
