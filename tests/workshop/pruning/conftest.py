"""Models of a user's own around one module, with every weight different from its neighbours."""

import numpy as np
import pytest

from edgemm.contracts import card_file as cards

SERIES = {"modality": "sensor", "shape": [12, 6], "rate_hz": 10}
VECTOR = {"modality": "sensor", "shape": [10], "rate_hz": 1}
PICTURE = {"modality": "sensor", "shape": [3, 12, 12], "rate_hz": 1}
WORDS = {"modality": "text", "vocab": 30, "length": 7}
LABEL = {"label": {"task": "classification", "labels": ["a", "b", "c"]}}


@pytest.fixture(scope="session")
def fused():
    """``fused(module, x=SERIES)``: the module as a FusedModel in eval mode; batch statistics, biases and norms are drawn at random."""
    import torch

    from edgemm.workshop.models.fused import FusedModel
    from edgemm.workshop.pruning.proof import disturbed

    def make(module, *, outputs=None, **inputs):
        card = cards.parse({"factory": "own:build", "inputs": inputs, "outputs": outputs or LABEL})
        torch.manual_seed(0)
        return disturbed(FusedModel(card, module).eval(), seed=3)

    return make


@pytest.fixture(scope="session")
def halved():
    """``halved(model)``: (structure, proof) with half of every layer gone, drawn at random."""
    from edgemm.workshop.pruning.analysis import analyse
    from edgemm.workshop.pruning.attention import split_attention
    from edgemm.workshop.pruning.proof import cases, prove

    def cut(model, seed=5):
        found = analyse(model, attention=tuple(split_attention(model.module)), seed=1)
        rng = np.random.default_rng(seed)
        removed = [root for layer in found.layers for root in rng.choice(layer.roots, layer.width // 2, replace=False).tolist()]
        return found, prove(model, found, removed, cases(model, None, seed=seed))

    return cut


@pytest.fixture(scope="module")
def gated():
    """A reference model with random weights: picture and sound, gated, two outputs."""
    import torch

    from edgemm.workshop.models.checkpoint.loading import load_model

    torch.manual_seed(0)
    return load_model(cards.load("image-audio-gated"))


@pytest.fixture(scope="module")
def gated_structure(gated):
    """What of it may go."""
    from edgemm.workshop.pruning.analysis import analyse

    return analyse(gated)
