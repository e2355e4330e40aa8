"""The proof: what it compares, and that it catches a slot that is off by one position."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from edgemm.contracts import card_file as cards
from edgemm.errors import PruneError
from edgemm.workshop.models.checkpoint.loading import load_model
from edgemm.workshop.pruning.analysis import analyse
from edgemm.workshop.pruning.cutting import cut_for_now, masked_for_now
from edgemm.workshop.pruning.proof import answers, cases, difference, disturbed, prove
from tests.workshop.pruning.conftest import VECTOR


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return disturbed(load_model(cards.load("image-audio-gated")))


@pytest.fixture(scope="module")
def found(model):
    return analyse(model)


@pytest.fixture(scope="module")
def removed(found):
    rng = np.random.default_rng(0)
    return [root for layer in found.layers for root in rng.choice(layer.roots, layer.width // 2, replace=False).tolist()]


def test_every_layer_at_once_proves_and_the_model_ends_as_it_was(model, found, removed):
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    given = cases(model, None)
    first = answers(model, given[0].features)
    proof = prove(model, found, removed, given)
    assert proof.error < 1e-5
    assert proof.cases == len(given)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.module.state_dict().items())
    assert all(torch.equal(value, first[name]) for name, value in answers(model, given[0].features).items())


@pytest.mark.parametrize(
    ("name", "axis"),
    [
        ("encoders.image.layers.1.1.bias", 0),
        ("encoders.image.layers.1.1.running_mean", 0),
        ("encoders.image.layers.3.0.weight", 0),
        ("encoders.image.layers.5.0.weight", 1),
        ("encoders.audio.gru.bias_ih_l0", 0),
        ("encoders.audio.gru.weight_hh_l0", 1),
        ("fusion.gate.weight", 1),
        ("heads.event.layers.1.weight", 1),
    ],
)
def test_a_slot_that_is_off_by_one_is_caught(name, axis, model, found, removed):
    wrong = replace(found, slots={**found.slots, (name, axis): np.roll(found.slots[name, axis], 1)})
    with pytest.raises(PruneError, match="the proof failed") as caught:
        prove(model, wrong, removed, cases(model, None))
    assert "layer group: 'encoders." in caught.value.why or "layer group: 'fusion." in caught.value.why


def test_masking_and_cutting_are_undone_even_when_the_model_fails_in_between(model, found, removed):
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    sizes = [(part.hidden_size, part.input_size) for part in model.module.modules() if hasattr(part, "hidden_size")]
    for for_now in (cut_for_now, masked_for_now):
        with pytest.raises(RuntimeError, match="in between"), for_now(model.module, found.kept(removed)):
            raise RuntimeError("in between")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.module.state_dict().items())
    assert sizes == [(part.hidden_size, part.input_size) for part in model.module.modules() if hasattr(part, "hidden_size")]


def test_every_subset_of_inputs_is_a_case():
    model = load_model(cards.load("text-audio-image-multitask"))
    names = [case.name for case in cases(model, None)]
    for missing in ("'text'", "'audio'", "'image'", "'text' and 'audio'", "'text' and 'image'", "'audio' and 'image'"):
        assert any(name.endswith(f"without {missing}") for name in names), missing
    assert any(name.endswith("with noise for 'image'") for name in names)
    assert sum(name.startswith("1 random") for name in names) >= 1


def test_what_float32_cannot_tell_is_told_in_float64(fused, halved):
    """A sine of large numbers makes the last digit of a sum count; no slot is wrong."""

    class Swamped(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.head = nn.Linear(10, 64), nn.Linear(64, 3)

        def forward(self, x):
            return (self.head(self.wide(x).tanh()) * 1e6).sin()

    torch.manual_seed(0)
    model = fused(Swamped(), x=VECTOR)
    found, proof = halved(model)
    assert [layer.name for layer in found.layers] == ["wide"]
    assert proof.error < 1e-5
    kept = found.kept(found.layers[0].roots[::2])  # sums run in another order when every other term is gone
    features = cases(model, None)[0].features
    with masked_for_now(model.module, kept):
        wanted = answers(model, features)
    with cut_for_now(model.module, kept):
        assert difference(wanted, answers(model, features)) > 1e-4


def test_differences_count_shapes_and_missing_numbers():
    one = {"a": torch.tensor([1.0, 2.0]), "b": torch.zeros(2)}
    assert difference(one, one) == 0
    assert difference(one, {**one, "a": torch.tensor([1.0, 2.2])}) == pytest.approx(0.1)
    assert difference(one, {**one, "b": torch.tensor([0.0, 0.5])}) == 0.5  # an output of zeros has no size to be relative to
    assert difference(one, {**one, "a": torch.tensor([1.0])}) == float("inf")
    assert difference(one, {**one, "a": torch.tensor([1.0, float("nan")])}) == float("inf")
    gone = {"a": torch.tensor([1.0, float("nan")])}
    assert difference(gone, gone) == 0
