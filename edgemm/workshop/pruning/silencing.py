"""What a model computes in training alone, such as auxiliary heads, and what of it no longer fits after a cut."""

from __future__ import annotations

import copy

import torch
from torch import nn

from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.models.tried import sample_inputs

ROWS = 4
"""A batch norm has no variance of one row."""


def silenced(model: FusedModel) -> tuple[str, ...]:
    """The modules that have to answer as in eval mode for the model to answer in training; () where it does so anyway, or never.

    The graph that pruning follows is that of eval mode: what training reads beside keeps its channels.
    """
    holders = [name for name, part in model.module.named_modules() if _is_own(part) and any(True for _ in part.children())]
    for names in ((), *([("",), tuple(holders)] if not model.silenced else [model.silenced])):
        trained = copy.deepcopy(model)
        trained.silenced = names
        if _answers(trained.train()):
            return names
    return ()


def _is_own(part: nn.Module) -> bool:
    return not type(part).__module__.startswith("torch.")


def _answers(model: FusedModel) -> bool:
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model(sample_inputs(model.card, batch=ROWS))
    except Exception:  # whatever the user's forward raises on narrower layers
        return False
    return True
