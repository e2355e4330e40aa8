"""A Hugging Face text backbone: BERT, the text side of CLIP or SigLIP, ..."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from edgemm.workshop.models.attention import MASKED
from edgemm.workshop.models.layers.backbone import backbone, is_causal, takes, tokens, vector, width_of
from edgemm.workshop.models.layers.text import masked_mean, token_mask, vocabulary_of
from edgemm.workshop.models.protocols import Encoder, Features


class HfText(Encoder):
    """The backbone, then one linear layer.

    Args:
        path: A local Hugging Face directory (config.json and safetensors): starts from its weights.
        config: Instead of ``path``: ``model_type`` and what differs from its defaults; starts from fresh weights.
        width: Size of the vector it gives.
        pool: ``mean`` over the words, the ``first`` token (BERT's class token), or the backbone's own ``pooler`` (CLIP).
    """

    later: Tensor | None

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
        words = vocabulary_of(features, "hf_text")
        self.width, self.pool, self.pad = width, pool, features.pad
        self.backbone = backbone("hf_text", "text_model", features, path, config, pool)
        settings = self.backbone.config
        if words > settings.vocab_size or features.shape[0] > settings.max_position_embeddings:
            limits = f"at most {settings.vocab_size} ids and {settings.max_position_embeddings} words"
            raise features.unfit("hf_text", f"{limits}, as its configuration says")
        self.typed = takes(self.backbone, "token_type_ids")
        length = features.shape[0]
        later = torch.full((length, length), MASKED).triu(1) if is_causal(self.backbone, length) else None
        self.register_buffer("later", later, persistent=False)
        self.project = nn.Linear(width_of(settings), width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        output, counts = self._states(x, mask)
        pooled = masked_mean(tokens(output), counts) if self.pool == "mean" else vector(output, self.pool, "hf_text")
        return self.project(pooled)

    def tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        output, counts = self._states(x, mask)
        return self.project(tokens(output)), counts

    def _states(self, x: Tensor, mask: Tensor | None) -> tuple[object, Tensor]:
        counts = token_mask(x, mask, self.pad)
        hidden = ((1.0 - counts) * MASKED).unsqueeze(1).unsqueeze(1)
        if self.later is not None:
            hidden = hidden + self.later[: x.shape[1], : x.shape[1]]
        kinds = {"token_type_ids": x * 0} if self.typed else {}
        return self.backbone(input_ids=x, attention_mask=hidden, **kinds), counts
