"""Multi-head attention of plain linear layers and matrix products: it exports to a handful of nodes, without shape arithmetic.

``scaled_dot_product_attention`` is not used because the exporter writes Shape and Slice nodes around it, and with a boolean mask
an IsNaN guard that keeps runtimes from fusing attention.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgemm.errors import CardError

MASKED = -1e4  # far below any score, and still a number in float16


class Attention(nn.Module):
    """Queries from one sequence, keys and values from another (or the same).

    The number of heads is read off the layers when it runs, so that whole heads can be removed.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise CardError(f"attention: a width of {width} cannot be shared by {heads} heads.", fix="choose a width that heads divides.")
        self.head_dim = width // heads
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """(N, T, width) looks at ``source`` (N, S, width) where ``mask`` (N, S) is 1, ``bias`` added to the scores -> (N, T, width)."""
        query = self.query(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        key = self.key(source).unflatten(-1, (-1, self.head_dim)).permute(0, 2, 3, 1)
        value = self.value(source).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        scores = torch.matmul(query * self.head_dim**-0.5, key)
        if mask is not None:
            scores = scores + ((1.0 - mask) * MASKED).unsqueeze(1).unsqueeze(1)
        if bias is not None:
            scores = scores + bias
        return self.out(torch.matmul(scores.softmax(-1), value).transpose(1, 2).flatten(2))


class TransformerLayer(nn.Module):
    """Self-attention and two linear layers, each after layer norm and beside a shortcut."""

    def __init__(self, width: int, heads: int, *, expand: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.before_attention, self.before_layers = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.layers = nn.Sequential(nn.Linear(width, width * expand), nn.GELU(), nn.Linear(width * expand, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """(N, T, width) -> (N, T, width); ``bias`` (N, 1, 1, T) is added to attention's scores, as token merging does."""
        normed = self.before_attention(x)
        x = x + self.dropout(self.attention(normed, normed, mask, bias))
        return x + self.dropout(self.layers(self.before_layers(x)))
