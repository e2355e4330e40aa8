"""Vision transformer: a picture as a sequence of patches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgemm.workshop.models.attention import TransformerLayer
from edgemm.workshop.models.layers.encoder import StatesEncoder, as_picture, picture_shape
from edgemm.workshop.models.protocols import Features


class Vit(StatesEncoder):
    """Patches, position embeddings, pre-norm transformer layers, then the mean over the patches.

    Args:
        patch: Side of a patch in pixels; what is left over at the right and bottom edge is cut off.
        embedding: Size inside.
        layers: Transformer layers.
        heads: Attention heads; divides ``embedding``.
        width: Size of the vector it gives.
        dropout: Share of the values blanked in training.

    Source: Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words"; mean instead of a class token.
    """

    def __init__(
        self,
        features: Features,
        *,
        patch: int = 8,
        embedding: int = 64,
        layers: int = 2,
        heads: int = 4,
        width: int = 128,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(features)
        channels, high, wide = picture_shape(features, "vit")
        if patch > min(high, wide):
            raise features.unfit("vit", f"a picture of at least {patch} x {patch}, the size of one patch")
        self.width = width
        self.patches = nn.Conv2d(channels, embedding, patch, stride=patch)
        self.positions = nn.Parameter(torch.randn((high // patch) * (wide // patch), embedding) * 0.02)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(TransformerLayer(embedding, heads, dropout=dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(embedding)
        self.project = nn.Linear(embedding, width)

    def states(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        patches = self.dropout(self.patches(as_picture(x)).flatten(2).transpose(1, 2) + self.positions)
        for layer in self.layers:
            patches = layer(patches)
        return self.norm(patches), None
