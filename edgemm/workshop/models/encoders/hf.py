"""A tower of a folder of Hugging Face, open_clip or timm: CLIP, SigLIP, CLAP, Whisper, BERT, ViT, DINOv2, wav2vec 2.0, ..."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from edgemm.errors import CardError
from edgemm.workshop.models.foreign.reading import is_folder
from edgemm.workshop.models.layers.backbone import tokens
from edgemm.workshop.models.layers.remembered import Remembered
from edgemm.workshop.models.layers.text import token_mask
from edgemm.workshop.models.layers.tower import Tower
from edgemm.workshop.models.protocols import Encoder, Features


class Hf(Encoder):
    """Starts from the folder's weights; the folder says how its vector is made, unless ``pool`` does.

    Args:
        path: The folder, relative to the card, else to the current directory. Nothing is downloaded.
        freeze: Training leaves it as it is.
        pool: None = as the folder says, with its projection and normalisation; else one vector of the states: their ``mean``, the
            ``first``, the ``last``, the greatest (``max``) of each number, or the backbone's own ``pooler``.
        width: Of a linear layer behind it; None = there is none.
    """

    def __init__(
        self,
        features: Features,
        *,
        path: str,
        freeze: bool = False,
        pool: Literal["mean", "first", "last", "max", "pooler"] | None = None,
        width: int | None = None,
    ) -> None:
        super().__init__(features)
        self.tower = Tower(_folder(path, features), features, pool=pool)
        self.is_frozen, self.pad = freeze, features.pad
        self._remembered = Remembered()
        self.project = nn.Linear(self.tower.width, width) if width else nn.Identity()
        self.width = width or self.tower.width
        if freeze:
            self.tower.requires_grad_(False)
            self.tower.eval()

    def train(self, mode: bool = True) -> Hf:
        """As for every module; what is frozen answers as in eval mode in training too."""
        super().train(mode)
        if self.is_frozen:
            self.tower.eval()
        return self

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        counts = self._counts(x, mask)
        is_traced = torch.compiler.is_compiling() or type(x) is not Tensor  # as training with quantization does once
        if is_traced or not (self.training and self.is_frozen and self.tower.side.modality == "text"):
            return self.project(self.tower(x, counts))

        def ask(rows: Tensor) -> Tensor:
            return self.tower(x[rows], None if counts is None else counts[rows])

        return self.project(self._remembered(self.tower, ask, x))

    def tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        counts = self._counts(x, mask)
        states = tokens(self.tower.states(x, counts))
        if states.shape[-1] != self.tower.width:
            return self(x, mask).unsqueeze(1), None
        return self.project(states), counts

    def _counts(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        side = self.tower.side
        return token_mask(x, mask, self.pad) if side.modality == "text" and side.hides_padding else None


def _folder(path: str, features: Features) -> Path:
    for base in (features.folder or Path(), Path()):
        if is_folder(base / path):
            return base / path
    raise CardError(
        f"inputs.{features.name}: '{path}' is no Hugging Face folder.",
        why="no config.json in it, nor open_clip_config.json, neither beside the card nor from here; nothing is downloaded.",
        fix="give the folder of a model that was downloaded.",
    )
