"""Models that a box cannot serve row by row are refused, by module and line; all others pass."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgemm.contracts import card_file as cards
from edgemm.errors import ExportError
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.models.row_by_row import require_own_answers

ROWS = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)


class Layers(nn.Module):
    """Two layers with something between them."""

    def __init__(self, between):
        super().__init__()
        self.one, self.between, self.two = nn.Linear(6, 12), between, nn.Linear(12, 3)

    def forward(self, x):
        return self.two(self.between(self.one(x)))


class Own(nn.Module):
    """A module around a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.register_buffer("last", torch.zeros(1))

    def forward(self, x):
        return self.function(self, x)


def ask(between):
    card = cards.parse(
        {
            "factory": "own:build",
            "inputs": {"x": {"modality": "sensor", "shape": [6]}},
            "outputs": {"y": {"task": "classification", "labels": ["a", "b", "c"]}},
        }
    )
    torch.manual_seed(0)
    model = FusedModel(card, Layers(between)).eval()
    require_own_answers(model, {"x": ROWS})
    return model


def remember(module, x):
    module.last = module.last + 1
    return x + module.last


@pytest.mark.parametrize(
    "between",
    [
        Own(lambda _, x: x - x.mean(0, keepdim=True)),
        Own(lambda _, x: x.softmax(0)),
        Own(lambda _, x: x / x.norm()),
        Own(lambda _, x: F.normalize(x, dim=0)),
        Own(lambda _, x: F.batch_norm(x[..., None].expand(-1, -1, 2) * torch.tensor([1.0, 2.0]), None, None, training=True)[..., 0]),
        Own(lambda _, x: x @ x.T @ x),
        Own(lambda _, x: x.flip(0)),
    ],
    ids=["centred", "softmax", "norm", "normalize", "functional batch norm", "attention over rows", "flipped"],
)
def test_a_row_that_is_answered_by_the_others_is_refused_with_its_module(between):
    with pytest.raises(ExportError, match=r"module 'between' \(\w+\).*a row's answer depends on the other rows") as refused:
        ask(between)
    assert "test_row_by_row.py" in refused.value.what
    assert "running statistics" in refused.value.fix


@pytest.mark.parametrize(
    "between", [Own(lambda _, x: x + x.squeeze()[:, :1]), nn.BatchNorm1d(12, track_running_stats=False)], ids=["squeezed", "batch norm"]
)
def test_a_model_that_fails_on_a_row_alone_is_told_where(between):
    with pytest.raises(ExportError, match=r"module 'between' \(\w+\).*fails on a row alone") as refused:
        ask(between)
    assert "track_running_stats=True" in refused.value.fix


@pytest.mark.parametrize(
    "between",
    [
        Own(lambda _, x: F.dropout(x, 0.5)),
        Own(lambda _, x: x + 0.1 * torch.randn_like(x)),
        Own(lambda _, x: x.roll(random.randint(1, 10 ** 6), 1)),
        Own(lambda _, x: x * float(np.random.rand())),
    ],
    ids=["functional dropout", "noise", "Python's chance", "numpy's chance"],
)  # fmt: skip
def test_a_model_that_answers_by_chance_is_told_with_its_line(between):
    with pytest.raises(ExportError, match=r"module 'between' \(Own\) at .*Own\(lambda _, x.*the model answers by chance") as refused:
        ask(between)
    assert "self.training" in refused.value.fix


def put_in_training(module, x):
    module.inner.train()
    return module.inner(x)


@pytest.mark.parametrize("inner", [nn.Dropout(0.5), nn.BatchNorm1d(12)], ids=["dropout", "batch norm"])
def test_what_a_forward_puts_in_training_mode_is_named(inner):
    between = Own(put_in_training)
    between.inner = inner
    with pytest.raises(ExportError, match=r"leave 'between\.inner' in the mode(.|\n)*\.train\(\)") as refused:
        ask(between)
    assert "track_running_stats" not in refused.value.fix


def test_a_model_that_remembers_its_calls_is_told_so():
    with pytest.raises(ExportError, match=r"remembers its calls in 'between.last'"):
        ask(Own(remember))


@pytest.mark.parametrize(
    "between",
    [
        nn.Sequential(nn.BatchNorm1d(12), nn.Dropout(0.5)),
        nn.LayerNorm(12),
        Own(lambda _, x: x * 1e6 - x * 1e6 + x),
        Own(lambda _, x: (x * 1e3).round() / 1e3),
        Own(lambda _, x: x + 0 * torch.rand_like(x)),
        Own(lambda _, x: x.reshape(-1, 3).tanh().reshape(x.shape)),
    ],
    ids=["batch norm and dropout", "layer norm", "noise of floats", "rounding", "chance that tells on nothing", "folded into the rows"],
)
def test_what_answers_each_row_for_itself_passes_and_is_left_as_it_was(between):
    before = torch.random.get_rng_state(), random.getstate()
    torch.random.set_rng_state(before[0])
    model = ask(between)
    assert not model.training
    assert random.getstate() == before[1]
