"""Whole layers go from both towers: the least missed ones, proved, saved and loaded; what is refused."""

import numpy as np
import pytest
import torch

from edgemm.errors import CheckpointError, PruneError
from edgemm.workshop.models.checkpoint.loading import load_model, save_model
from edgemm.workshop.steps.shorten import restore, shorten
from tests.workshop.steps.test_merge import answers, context, model_of

__all__ = ["model_of"]


def layers(model, name):
    return len(model.module.get_submodule(name))


def test_the_least_missed_layers_of_both_towers_go_and_the_rest_is_proved(model_of, tmp_path):
    model, notes = model_of("clip"), list[str]()
    with torch.no_grad():  # a layer that does nothing
        for parameter in model.module.get_submodule("encoders.image.backbone.encoder.layers.2").parameters():
            parameter.mul_(1e-3)
    ctx = context(model, tmp_path, notes)
    shorter = shorten(model, ctx, layers=0.5, branches={"image": 0.25, "text": 0.5}, samples=16)
    assert notes[0] == "shorten: 'image' goes from 4 layers to 3; those counted 2 from 0 went."
    assert (layers(shorter, "encoders.image.backbone.encoder.layers"), layers(shorter, "encoders.text.layers")) == (3, 1)
    assert ctx.facts["proof"]["error"] <= 1e-5
    assert np.abs(answers(model)["image_vector"] - answers(shorter)["image_vector"]).max() < 1e-3
    card = save_model(shorter, tmp_path / "saved")
    again = answers(load_model(card))
    assert all(np.array_equal(value, again[name]) for name, value in answers(shorter).items())
    with pytest.raises(CheckpointError, match="of so many layers"):
        restore(model_of("clip"), {"format": 1, "towers": [{"tower": "encoders.text.layers", "kept": [5]}]})


def test_what_cannot_go_is_refused(model_of, tmp_path):
    model = model_of("ours")
    with pytest.raises(PruneError, match="no layer would go"):
        shorten(model, context(model, tmp_path), branches={"text": 0.1})
    with pytest.raises(PruneError, match=r"layers: a share of 1\.5"):
        shorten(model, context(model, tmp_path), layers=1.5)
    with torch.no_grad():
        model.module.get_submodule("encoders.image.layers.0").register_forward_hook(lambda module, args, output: output * 2)
    with pytest.raises(PruneError, match="does not hand on what it got"):
        shorten(model, context(model, tmp_path), branches={"image": 0.5}, samples=4)
