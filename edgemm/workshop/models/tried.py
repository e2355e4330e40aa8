"""A model run for a look at it, in eval mode and on made-up inputs. Needs nothing of what exports: loading a model is quick."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from edgemm.contracts.card import Card
from edgemm.contracts.modality import modalities

TRACED_BATCH = 2  # torch.export treats sizes 0 and 1 as special; 2 is the smallest ordinary one


def sample_inputs(card: Card, batch: int = TRACED_BATCH, seed: int = 0) -> dict[str, torch.Tensor]:
    """Synthetic raw inputs, for tracing."""
    rng = np.random.default_rng(seed)
    inputs = {}
    for name, modality in modalities(card).items():
        steps = card.inputs[name].steps
        one = [np.stack([modality.synthetic(rng) for _ in range(steps)]) if steps else modality.synthetic(rng) for _ in range(batch)]
        inputs[name] = torch.from_numpy(np.stack(one))
    return inputs


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every submodule is in the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
