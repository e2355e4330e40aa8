"""From a model to what of it may be removed: trace, group, and try the layers."""

from __future__ import annotations

import numpy as np
import torch

from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.models.torch_branches import find_parts
from edgemm.workshop.models.tried import evaluating, sample_inputs
from edgemm.workshop.pruning.layers import Structure, structure, without
from edgemm.workshop.pruning.proof import Said, disturbed, failing, silent
from edgemm.workshop.pruning.tracing import follow


def analyse(
    model: FusedModel,
    *,
    attention: tuple[str, ...] = (),
    seed: int = 0,
    progress: Said = silent,
) -> Structure:
    """What of ``model`` may be removed, every layer proved on a copy whose weights are all different.

    Args:
        attention: Attention layers that were replaced in it; noted in the result.

    Raises:
        ExportError: torch.export refuses the model; names the line of its code.
    """
    parts = find_parts(model)
    with torch.no_grad(), evaluating(model):
        features = [tuple(x.contiguous() for x in model.features(sample_inputs(model.card, batch=size, seed=seed))) for size in (2, 3)]
    traced = follow(parts, features[0])
    module = model.module
    tensors = dict([*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)])
    removable = structure(traced, parts, tensors, attention)
    reasons = failing(disturbed(model, seed=seed), removable, features[1:], np.random.default_rng(seed), progress)
    return without(removable, reasons)
