"""Whether the weights of a card that names none are brought by its factory or drawn at random."""

import pytest
import torch
from torch import nn

from edgemm.contracts import card_file as cards
from edgemm.workshop.models.checkpoint.loading import load_model
from edgemm.workshop.models.checkpoint.origin import origin

BUILDS = {
    "drawn": "def build(): return nn.Linear(2, 2)",
    "drawn, from a seed of its own": "def build():\n    torch.manual_seed(0)\n    return nn.Linear(2, 2)",
    "drawn, in part when imported": "W = torch.rand(2, 2)\ndef build():\n    m = nn.Linear(2, 2); m.weight.data = W.clone(); return m",
    "brought": "def build():\n    m = nn.Linear(2, 2); m.weight.data = torch.ones(2, 2); m.bias.data = torch.ones(2); return m",
    "brought: there are none": "def build(): return nn.Flatten()",
    "unstable": "import time\ndef build():\n    m = nn.Linear(2, 2); m.bias.data += time.perf_counter_ns() % 1e6; return m",
}


@pytest.fixture
def card(tmp_path):
    def make(source: str):
        (tmp_path / "net.py").write_text(f"import torch\nfrom torch import nn\n{source}\n")
        plain = {"factory": "net:build", "inputs": {"x": {"modality": "sensor", "shape": [2]}}, "outputs": {"y": {"task": "tensor"}}}
        return cards.parse(plain, path=tmp_path / "model.yaml")

    return make


@pytest.mark.parametrize("name", BUILDS)
def test_the_origin_of_weights_is_found(card, name):
    assert origin(card(BUILDS[name])) == name.replace(":", ",").split(",")[0]


@pytest.mark.parametrize("name", [name for name in BUILDS if name != "unstable"])
def test_every_build_is_the_same_model_and_leaves_the_random_state_alone(card, name):
    torch.manual_seed(3)
    expected = torch.rand(1)
    one, other = load_model(card(BUILDS[name])).module, load_model(card(BUILDS[name])).module
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    torch.manual_seed(3)
    load_model(card(BUILDS["drawn"]))
    assert torch.equal(torch.rand(1), expected)


def test_a_seed_of_ones_own_gives_another_model(card):
    assert isinstance(one := load_model(card(BUILDS["drawn"]), seed=1).module, nn.Linear)
    assert not torch.equal(one.weight, load_model(card(BUILDS["drawn"]), seed=2).module.weight)
