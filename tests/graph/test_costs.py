import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgemm.graph.branches import find_branches, name_owners
from edgemm.graph.costs import branch_costs, tensor_shapes
from tests.onnx_models import model as onnx_model

FLOAT = TensorProto.FLOAT


def model(nodes, inputs, outputs, constants):
    """A model of ``nodes`` with float inputs and outputs given as name -> shape, and float constants as name -> shape or array."""
    arrays = {name: np.zeros(value, np.float32) if isinstance(value, tuple) else value for name, value in constants.items()}
    return onnx_model(nodes, inputs, outputs, arrays)


def node(kind, name, inputs, output, **attributes):
    return helper.make_node(kind, inputs, [output] if isinstance(output, str) else output, name=name, **attributes)


def costs(made, sizes=None):
    return branch_costs(made, find_branches(made), sizes)


@pytest.fixture
def fused():
    """image (conv) and audio (GRU) meet in a concatenation and a head."""
    nodes = [
        node("Conv", "conv", ["image", "k", "b"], "maps", pads=[1, 1, 1, 1]),
        node("GlobalAveragePool", "pool", ["maps"], "pooled"),
        node("Flatten", "flat", ["pooled"], "seen"),
        node("GRU", "gru", ["audio", "w", "r"], ["", "state"], hidden_size=5),
        node("Squeeze", "squeeze", ["state", "first"], "heard"),
        node("Concat", "cat", ["seen", "heard"], "both", axis=1),
        node("Gemm", "head", ["both", "hw", "hb"], "event", transB=1),
    ]
    constants = {"k": (4, 3, 3, 3), "b": (4,), "w": (1, 15, 6), "r": (1, 15, 5), "hw": (7, 9), "hb": (7,), "first": np.array([0])}
    return model(nodes, {"image": ["batch", 3, 8, 8], "audio": [10, "batch", 6]}, {"event": ["batch", 7]}, constants)


def test_parameters_and_macs_are_counted_branch_by_branch(fused):
    found = costs(fused)
    assert list(found) == ["image", "audio", "fusion", "head:event"]
    assert {name: cost.parameters for name, cost in found.items()} == {"image": 112, "audio": 165, "fusion": 0, "head:event": 70}
    assert {name: cost.macs for name, cost in found.items()} == {
        "image": 4 * 8 * 8 * 27, "audio": 10 * (15 * 6 + 15 * 5), "fusion": 0, "head:event": 7 * 9,
    }  # fmt: skip
    assert {name: cost.nodes for name, cost in found.items()} == {"image": 3, "audio": 2, "fusion": 1, "head:event": 1}


def test_int8_keeps_a_scale_for_each_channel_and_floats_for_the_rest(fused):
    found = costs(fused)
    assert dict(found["image"].size_bytes) == {"fp32": 448, "fp16": 224, "int8": 108 + 4 * 4 + 4 * 4}
    assert dict(found["audio"].size_bytes) == {"fp32": 660, "fp16": 330, "int8": 660}, "recurrent layers stay in float"
    assert dict(found["head:event"].size_bytes) == {"fp32": 280, "fp16": 140, "int8": 63 + 4 * 7 + 4 * 7}


def test_a_graph_with_qdq_counts_the_same_parameters_and_what_they_take_there():
    nodes = [
        node("QuantizeLinear", "q", ["x", "xs", "xz"], "xq"),
        node("DequantizeLinear", "dq", ["xq", "xs", "xz"], "xd"),
        node("DequantizeLinear", "dqw", ["w", "ws", "wz"], "wd", axis=1),
        node("MatMul", "head", ["xd", "wd"], "y"),
    ]
    constants = {
        "xs": np.array(0.1, np.float32), "xz": np.array(0, np.int8), "w": np.zeros((6, 3), np.int8), "ws": np.ones(3, np.float32),
        "wz": np.zeros(3, np.int8),
    }  # fmt: skip
    found = costs(model(nodes, {"x": ["batch", 6]}, {"y": ["batch", 3]}, constants))
    assert sum(cost.parameters for cost in found.values()) == 18
    assert sum(cost.stored_bytes for cost in found.values()) == 18
    assert sum(cost.macs for cost in found.values()) == 18
    assert sum(cost.size_bytes["int8"] for cost in found.values()) == 18 + 12


def test_weights_that_are_rearranged_first_belong_to_the_layer_that_multiplies():
    nodes = [node("Transpose", "turn", ["w"], "turned", perm=[1, 0]), node("MatMul", "head", ["x", "turned"], "y")]
    found = costs(model(nodes, {"x": ["batch", 6]}, {"y": ["batch", 3]}, {"w": (3, 6)}))
    assert sum(cost.size_bytes["int8"] for cost in found.values()) == 18 + 4 * 3


def test_a_weight_used_twice_counts_once():
    nodes = [node("MatMul", "one", ["x", "w"], "h"), node("MatMul", "two", ["h", "w"], "y")]
    found = costs(model(nodes, {"x": ["batch", 6]}, {"y": ["batch", 6]}, {"w": (6, 6)}))
    assert sum(cost.parameters for cost in found.values()) == 36
    assert sum(cost.macs for cost in found.values()) == 72


def test_a_front_end_has_a_row_of_its_own_and_its_constants_are_no_parameters():
    nodes = [node("MatMul", "frontend/audio/0_MatMul", ["audio", "mel"], "m"), node("MatMul", "head", ["m", "w"], "y")]
    found = costs(model(nodes, {"audio": ["batch", 100]}, {"y": ["batch", 3]}, {"mel": (100, 40), "w": (40, 3)}))
    assert {name: (cost.parameters, cost.macs, cost.nodes) for name, cost in found.items()} == {
        "frontend:audio": (0, 4000, 1), "head:y": (120, 120, 1),
    }  # fmt: skip
    front_end = found["frontend:audio"]
    assert {*front_end.size_bytes.values(), front_end.stored_bytes} == {4 * 4000}, "no precision makes it smaller"


@pytest.mark.parametrize(
    ("nodes", "inputs", "constants", "macs"),
    [
        ([node("ConvTranspose", "up", ["x", "w"], "y", strides=[2])], {"x": ["batch", 4, 8]}, {"w": (4, 3, 2)}, 4 * 8 * 3 * 2),
        ([node("Conv", "depthwise", ["x", "w"], "y", group=4)], {"x": ["batch", 4, 8]}, {"w": (4, 1, 3)}, 4 * 6 * 3),
        ([node("Einsum", "e", ["x", "w"], "y", equation="bik,kj->bij")], {"x": ["batch", 5, 4]}, {"w": (4, 3)}, 5 * 4 * 3),
        ([node("MatMul", "attention", ["x", "z"], "y")], {"x": ["batch", 5, 4], "z": ["batch", 4, 5]}, {}, 5 * 4 * 5),
        ([node("LSTM", "l", ["x", "w", "r"], "y", hidden_size=2)], {"x": [7, "batch", 3]}, {"w": (1, 8, 3), "r": (1, 8, 2)}, 7 * (24 + 16)),
    ],
)
def test_macs_of_an_operator(nodes, inputs, constants, macs):
    made = model(nodes, inputs, {"y": None}, constants)
    assert sum(cost.macs for cost in costs(made).values()) == macs


def test_open_axes_are_filled_from_the_sizes_given_and_the_batch_is_one_wherever_it_stands():
    nodes = [node("MatMul", "m", ["x", "w"], "h"), node("Add", "a", ["h", "state"], "y")]
    made = model(nodes, {"x": ["n", "length", 4], "state": [2, "n", 3]}, {"y": None}, {"w": (4, 3)})
    assert tensor_shapes(made)["h"] == (1, 16, 3)
    assert tensor_shapes(made)["state"] == (2, 1, 3)
    assert tensor_shapes(made, {"x": ("batch", 50, 4)})["h"] == (1, 50, 3)


def test_the_model_is_left_alone(fused):
    before = fused.SerializeToString(deterministic=True)
    costs(fused)
    assert fused.SerializeToString(deterministic=True) == before


def test_names_of_nodes_and_tensors_tell_their_branch(fused):
    owner = name_owners(fused, find_branches(fused))
    assert owner["conv"] == owner["maps"] == "image"
    assert owner["event"] == "head:event"
    assert "image" not in owner
    assert "" not in owner


def test_a_large_model_is_counted_without_its_weights(tmp_path):
    nodes = [node("MatMul", "m", ["x", "w"], "y")]
    made = model(nodes, {"x": ["batch", 512]}, {"y": None}, {"w": (512, 2048)})
    path = tmp_path / "model.onnx"
    onnx.save(made, path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    bare = onnx.load(path, load_external_data=False)
    assert sum(cost.parameters for cost in costs(bare).values()) == 512 * 2048
