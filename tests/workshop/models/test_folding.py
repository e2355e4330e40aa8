"""Weights that are computed at every call become plain ones: the same answers, cut and trained like any other."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from edgemm.contracts import card_file as cards
from edgemm.errors import ExportError
from edgemm.workshop.models.checkpoint.loading import load_model, save_model
from edgemm.workshop.models.folding import fold, folded, is_computed
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.models.onnx_export import trace
from edgemm.workshop.models.tried import sample_inputs
from edgemm.workshop.training.loop import seeded_model

SOURCE = """
import warnings
from torch import nn
from torch.nn.utils import parametrizations

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.eye = nn.utils.weight_norm(nn.Linear(6, 16))
        self.ear, self.head = parametrizations.spectral_norm(nn.Linear(16, 16)), nn.Linear(16, 3)
    def forward(self, x):
        return self.head(self.ear(self.eye(x).relu()).relu())

def build():
    return Net()
"""
CARD = {
    "factory": "computed_net:build",
    "inputs": {"x": {"modality": "sensor", "shape": [6]}},
    "outputs": {"y": {"task": "classification", "labels": ["a", "b", "c"]}},
}


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def old(function, *arguments, **options):
    """One of torch's old hooks, without the word that it is old."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **options)


def registered(layer):
    parametrize.register_parametrization(layer, "weight", Doubled())
    return layer


FORMS = {
    "weight norm, old": lambda layer: old(nn.utils.weight_norm, layer),
    "weight norm": parametrizations.weight_norm,
    "spectral norm, old": lambda layer: old(nn.utils.spectral_norm, layer),
    "spectral norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "of a user's own": registered,
    "masked": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "masked twice": lambda layer: prune.random_unstructured(prune.l1_unstructured(layer, "weight", 0.3), "weight", 0.3),
    "both": lambda layer: old(nn.utils.weight_norm, registered(nn.Linear(8, 8)), "bias", dim=None),
}


def fused(layer):
    torch.manual_seed(0)
    model = FusedModel(cards.parse(CARD), nn.Sequential(nn.Linear(6, 8), layer, nn.ReLU(), nn.Linear(8, 3)))
    model.train()(sample_inputs(model.card, batch=4))["y"].sum().backward()  # hooks leave tensors that cannot be copied
    return model.eval()


def answers(model):
    with torch.no_grad():
        return model(sample_inputs(model.card, batch=4, seed=5))["y"]


@pytest.mark.parametrize("form", FORMS)
def test_it_answers_alike_with_plain_weights_that_train_and_the_original_stays(form):
    model = fused(FORMS[form](nn.Linear(8, 8)))
    before = answers(model)
    plain = folded(model)
    assert torch.allclose(answers(plain), before, atol=1e-6)
    assert not is_computed(plain.module)
    assert set(dict(plain.module[1].named_parameters())) == {"weight", "bias"}
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in plain.parameters())
    copy.deepcopy(plain)
    assert is_computed(model.module)
    assert torch.equal(answers(model), before)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_plain_weights_are_read_back_into_the_plain_model(form):
    plain = folded(fused(form(nn.Linear(8, 8))))
    best = {name: value + 1 for name, value in plain.module.state_dict().items()}
    plain.module.load_state_dict(best)  # as training does with the best epoch's
    assert all(torch.equal(value, best[name]) for name, value in plain.module.state_dict().items())


def test_a_recurrent_layers_computed_weight_is_what_it_runs_with_afterwards():
    layer = old(nn.utils.weight_norm, nn.GRU(4, 5), "weight_hh_l0")
    x = torch.ones(3, 2, 4)
    before = layer(x)[0]
    assert fold(layer) == ["weight_hh_l0"]
    assert torch.allclose(layer(x)[0], before)
    with torch.no_grad():
        layer.weight_hh_l0.zero_()
    assert not torch.allclose(layer(x)[0], before)


def test_a_model_without_computed_weights_is_itself():
    model = fused(nn.Linear(8, 8))
    assert folded(model) is model


def test_a_weight_that_is_used_elsewhere_too_is_refused():
    model = fused(nn.Linear(8, 8))
    model.module[1].weight = model.module[0].weight = nn.Parameter(torch.randn(8, 8))
    model.module[0], model.module[1] = nn.Sequential(nn.Linear(6, 8), model.module[0]), registered(model.module[1])
    with pytest.raises(ExportError, match=r"output 'y' changes when the computed weights are made plain(.|\n)*1.weight"):
        folded(model)


def test_its_graph_holds_the_weight_as_a_constant():
    graph = trace(folded(fused(parametrizations.spectral_norm(nn.Linear(8, 8))))).model.graph
    assert {node.op_type for node in graph.node} <= {"Gemm", "Relu", "MatMul", "Add"}


@pytest.fixture
def card(tmp_path):
    (tmp_path / "computed_net.py").write_text(SOURCE)
    (tmp_path / "model.yaml").write_text(cards.parse(CARD).to_yaml())
    return cards.load(tmp_path / "model.yaml")


def test_a_checkpoint_of_computed_weights_is_read_and_made_plain_and_so_is_one_of_plain_weights(card, tmp_path):
    trained = seeded_model(card, seed=0)
    assert is_computed(trained.module)
    first = save_model(trained, tmp_path / "trained")
    plain = load_model(first)
    assert not is_computed(plain.module)
    assert torch.allclose(answers(plain), answers(trained.eval()), atol=1e-6)
    again = load_model(save_model(plain, tmp_path / "plain"), fold=False)
    assert torch.equal(answers(again), answers(plain))
    assert not is_computed(again.module)
