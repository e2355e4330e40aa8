"""Branches look at each other, token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgemm.workshop.models.attention import Attention
from edgemm.workshop.models.layers.fusion import Mapped, total
from edgemm.workshop.models.protocols import Fusion

Tokens = tuple[Tensor, Tensor | None]


class CrossAttention(Fusion):
    """Each branch's tokens look at the tokens of all other branches; the means of what they found, side by side, through one layer.

    A lone branch looks at itself.

    Args:
        width: Size to which every branch's tokens are mapped, and of the vector it gives.
        heads: Attention heads; divides ``width``.
        dropout: Share of the values blanked in training.

    Source: Tsai et al. 2019, "Multimodal Transformer for Unaligned Multimodal Language Sequences", one layer.
    """

    takes_tokens: ClassVar[bool] = True

    def __init__(
        self, widths: Mapping[str, int], outputs: Sequence[str], *, width: int = 128, heads: int = 4, dropout: float = 0.0
    ) -> None:
        super().__init__(widths, outputs)
        self.mapped = Mapped(widths, width, "cross_attention")
        self.norms = nn.ModuleDict({name: nn.LayerNorm(width) for name in widths})
        self.attention = nn.ModuleDict({name: Attention(width, heads) for name in widths})
        self.finish = nn.Sequential(nn.Linear(width * len(widths), width), nn.ReLU(), nn.Dropout(dropout))
        self.width = width

    def forward(self, branches: dict[str, Tokens]) -> Tensor:
        masks = {name: mask for name, (_, mask) in branches.items()}
        mapped = self.mapped({name: tokens for name, (tokens, _) in branches.items()})
        normed = {name: self.norms[name](tokens) for name, tokens in mapped.items()}
        means = []
        for name, tokens in mapped.items():
            others = [other for other in mapped if other != name] or [name]
            source = torch.cat([normed[other] for other in others], dim=1) if len(others) > 1 else normed[others[0]]
            seen = tokens + self.attention[name](normed[name], source, _joined(masks, normed, others))
            means.append(_mean(seen, masks[name]))
        return self.finish(torch.cat(means, dim=-1))


def _joined(masks: dict[str, Tensor | None], tokens: dict[str, Tensor], names: list[str]) -> Tensor | None:
    """The masks of several branches in a row, (N, all their tokens); None where none has one."""
    sizes = [tokens[name].shape[1] for name in names]
    rows = []
    for number, name in enumerate(names):
        mask = masks[name]
        if mask is not None:  # what is padding, with zeros where the other branches stand
            rows.append(nn.functional.pad(1.0 - mask, (sum(sizes[:number]), sum(sizes[number + 1 :]))))
    return 1.0 - total(rows) if rows else None


def _mean(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """(N, T, width) -> (N, width), over the tokens that count."""
    if mask is None:
        return tokens.mean(1)
    return (tokens * mask.unsqueeze(2)).sum(1) / mask.sum(1, keepdim=True).clamp(min=1.0)
