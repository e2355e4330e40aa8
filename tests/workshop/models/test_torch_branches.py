"""Which node, parameter and submodule of a torch model belongs to which branch."""

import pytest
import torch
from torch import nn

from edgemm.contracts import card_file as cards
from edgemm.errors import EdgemmError, ExportError
from edgemm.workshop.models.checkpoint.loading import load_model
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.models.torch_branches import find_parts, selected

SENSORS = {
    "left": {"modality": "sensor", "shape": [6], "rate_hz": 1},
    "right": {"modality": "sensor", "shape": [5], "rate_hz": 1},
}
TWO = {"event": {"task": "classification", "labels": ["a", "b"]}, "level": {"task": "regression"}}


@pytest.fixture(scope="module")
def gated():
    return load_model(cards.load("image-audio-gated"))


@pytest.fixture(scope="module")
def parts(gated):
    return find_parts(gated)


def fused(module, inputs=None, outputs=None):
    return FusedModel(cards.parse({"factory": "porch:build", "inputs": inputs or SENSORS, "outputs": outputs or TWO}), module)


class Shared(nn.Module):
    """One layer for both inputs, joined before anything else; two heads."""

    def __init__(self):
        super().__init__()
        self.same = nn.Linear(5, 8)
        self.again = self.same
        self.event, self.level = nn.Linear(16, 2), nn.Linear(16, 1)

    def forward(self, left, right):
        joined = torch.cat([self.same(left[:, :5]), self.again(right)], dim=1).relu()
        return {"event": self.event(joined), "level": self.level(joined).squeeze(1)}


def test_every_node_of_a_gated_model_has_a_branch(parts):
    assert parts.names() == ["image", "audio", "fusion", "head:event", "head:level"]
    calls = {node.name for node in parts.program.graph.nodes if node.op == "call_function"}
    assert set(parts.of_node) <= calls
    assert len(calls - set(parts.of_node)) == 0


def test_parameters_follow_the_nodes_that_read_them(gated, parts):
    for name, _ in gated.module.named_parameters():
        first, second = name.split(".")[:2]
        wanted = {"encoders": second, "heads": f"head:{second}"}.get(first, "fusion")
        # each branch's mapping to the common width still depends on one input alone
        assert parts.of_parameter[name] == (name.split(".")[3] if name.startswith("fusion.mapped") else wanted)


def test_a_branch_ends_where_the_fusion_begins(parts):
    assert {name: len(nodes) for name, nodes in parts.cuts.items()} == {"image": 1, "audio": 1}
    assert parts.of_node[parts.cuts["image"][0]] == "image"


def test_the_module_that_ends_at_a_node_returns_its_value(gated, parts):
    named = {name: parts.module_ending_at(node) for name, node in parts.outputs.items()}
    assert named["event"] == "heads.event"
    assert named["level"] == "heads.level"
    from edgemm.workshop.models.tried import sample_inputs

    heard = []
    hook = gated.module.get_submodule(named["event"]).register_forward_hook(lambda _m, _a, value: heard.append(value))
    with torch.no_grad():
        outputs = gated(sample_inputs(gated.card))
    hook.remove()
    assert torch.equal(heard[0], outputs["event"])


def test_a_recurrent_layer_returns_a_pair_so_no_module_ends_there(gated, parts):
    getitem = next(name for name in parts.of_node if name.startswith("getitem"))
    assert parts.module_ending_at(getitem) is None


def test_the_model_is_left_as_it_was(gated):
    gated.train()
    gated.module.fusion.eval()
    find_parts(gated)
    assert gated.training
    assert not gated.module.fusion.training
    gated.eval()


def test_selectors_mean_what_they_mean_in_a_graph(gated, parts):
    assert selected(parts, "image", gated.card) == ["image"]
    assert selected(parts, "head", gated.card) == ["head:event", "head:level"]
    assert selected(parts, "head:level", gated.card) == ["head:level"]
    assert selected(parts, "text", gated.card) == []
    with pytest.raises(EdgemmError, match="'camera' is no part of this model") as caught:
        selected(parts, "camera", gated.card)
    assert "audio" in caught.value.fix


def test_shared_weights_are_found_under_both_names():
    parts = find_parts(fused(Shared()))
    assert parts.of_parameter["same.weight"] == parts.of_parameter["again.weight"] == "left"
    assert parts.names() == ["left", "right", "fusion", "head:event", "head:level"]
    assert parts.module_ending_at(parts.outputs["event"]) == "event"
    assert parts.module_ending_at(parts.cuts["left"][0]) is None  # the shared layer is called twice


def test_an_input_that_goes_straight_into_the_fusion_is_its_own_cut():
    class Straight(nn.Module):
        def __init__(self):
            super().__init__()
            self.event, self.level = nn.Linear(11, 2), nn.Linear(11, 1)

        def forward(self, left, right):
            joined = torch.cat([left, right], dim=1).tanh()
            return {"event": self.event(joined), "level": self.level(joined).squeeze(1)}

    parts = find_parts(fused(Straight()))
    assert parts.names() == ["fusion", "head:event", "head:level"]
    placeholders = list(parts.program.graph_signature.user_inputs)
    assert parts.cuts == {"left": placeholders[:1], "right": placeholders[1:]}


@pytest.mark.parametrize("name", ["digits", "image-only", "image-text-two-tower", "text-audio-image-multitask", "sensor-audio-graph"])
def test_torch_and_onnx_agree_about_the_branches(name, tmp_path):
    import onnx

    from edgemm.graph.branches import find_branches
    from edgemm.graph.costs import branch_costs
    from edgemm.workshop.models.onnx_export import export_onnx

    model = load_model(cards.load(name))
    parts = find_parts(model)
    proto = onnx.load(export_onnx(model, tmp_path / "model.onnx"))
    branches = find_branches(proto, model.card)
    assert parts.names() == branches.names()
    counts = dict.fromkeys(parts.names(), 0)
    for parameter, tensor in model.module.named_parameters():
        counts[parts.of_parameter[parameter]] += tensor.numel()
    exported = {branch: cost.parameters for branch, cost in branch_costs(proto, branches).items()}
    for branch, count in counts.items():  # the exporter folds batch norms and adds zero biases, so only nearly
        assert exported[branch] == pytest.approx(count, rel=0.2, abs=400), branch


def test_code_that_decides_on_values_is_named_by_its_line():
    class Stubborn(Shared):
        def forward(self, left, right):
            if left.sum() > 0:
                left = left * 2
            return super().forward(left, right)

    with pytest.raises(ExportError, match=r"test_torch_branches\.py:\d+: `if left\.sum\(\) > 0:`"):
        find_parts(fused(Stubborn()))
