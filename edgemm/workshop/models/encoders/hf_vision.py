"""A Hugging Face vision backbone: ResNet, ViT, the picture side of CLIP or SigLIP, ..."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from edgemm.workshop.models.layers.backbone import backbone, takes, tokens, vector, width_of
from edgemm.workshop.models.protocols import Encoder, Features


class HfVision(Encoder):
    """The backbone, then one linear layer.

    Args:
        path: A local Hugging Face directory (config.json and safetensors): starts from its weights.
        config: Instead of ``path``: ``model_type`` and what differs from its defaults; starts from fresh weights.
        width: Size of the vector it gives.
        pool: ``mean`` over the tokens or cells, the ``first`` token (ViT's class token), or the backbone's own ``pooler`` (CLIP).
    """

    nothing: Tensor | None

    def __init__(
        self,
        features: Features,
        *,
        path: str | None = None,
        config: dict[str, Any] | None = None,
        width: int = 128,
        pool: Literal["mean", "first", "pooler"] = "mean",
    ) -> None:
        super().__init__(features)
        self.width, self.pool = width, pool
        self.backbone = backbone("hf_vision", "vision_model", features, path, config, pool)
        nothing = torch.zeros(1, 1, 1, 1) if takes(self.backbone, "attention_mask") else None
        self.register_buffer("nothing", nothing, persistent=False)
        wants = _wanted_shape(self.backbone.config, features)
        if wants != features.shape:
            raise features.unfit("hf_vision", f"a picture of shape {wants}, as its configuration says")
        self.project = nn.Linear(width_of(self.backbone.config), width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.project(vector(self._output(x), self.pool, "hf_vision"))

    def tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        return self.project(tokens(self._output(x))), None

    def _output(self, x: Tensor) -> object:
        masks = {} if self.nothing is None else {"attention_mask": self.nothing}  # else it makes one, of the batch's size
        return self.backbone(pixel_values=x, **masks)


def _wanted_shape(config: object, features: Features) -> tuple[int, ...]:
    """The shape that a configuration fixes; where it leaves the size open, the input's."""
    if len(features.shape) != 3:
        raise features.unfit("hf_vision", "a picture (channels, height, width)")
    size = getattr(config, "image_size", None) or features.shape[1:]
    high, wide = (size, size) if isinstance(size, int) else size
    return getattr(config, "num_channels", features.shape[0]), high, wide
