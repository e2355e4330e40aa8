"""torch as the array namespace in which ``forms.decode`` is written, so that a loss reads answers as the box does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from edgemm.data.boxes.forms import Namespace


class Torch(Namespace):
    """torch's."""

    def exp(self, array: Tensor) -> Tensor:
        return array.clamp(max=60).exp()

    def sigmoid(self, array: Tensor) -> Tensor:
        return array.sigmoid()

    def softmax(self, array: Tensor) -> Tensor:
        return array.softmax(-1)

    def concatenate(self, arrays: Sequence[Tensor], axis: int) -> Tensor:
        return torch.cat(list(arrays), axis)

    def constant(self, array: np.ndarray, like: Tensor) -> Tensor:
        return torch.as_tensor(np.asarray(array, np.float32), device=like.device)


TORCH = Torch()
