"""What stays float at the end of a graph, whichever way people write it; and that ordinary models lose nothing by it."""

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import helper

from edgemm.graph import files, onnx_card, user_onnx
from edgemm.graph.float_tail import float_tail
from tests.onnx_models import model as onnx_model
from tests.places import PACKS

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from edgemm.workshop.models.onnx_export import export_onnx  # noqa: E402
from tests import dense_models  # noqa: E402
from tests.flow.cells import MATRIX, make  # noqa: E402

PRODUCTS = ("Conv", "Gemm", "MatMul")


@pytest.fixture
def exported(tmp_path):
    """``exported(module, *outputs)``: its graph."""

    def export(module, *outputs):
        return onnx.load(export_onnx(dense_models.dense(module, *outputs), tmp_path / "model.onnx"))

    return export


def kinds(model, names):
    """How many nodes of each operator are among ``names``."""
    return Counter(node.op_type for node in model.graph.node if node.name in names)


def made(model, node):
    """How many numbers a linear layer makes of each row; () of other nodes."""
    weights = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    is_linear = node.op_type in ("MatMul", "Gemm") and len(weights.get(node.input[1], ())) == 2
    return (weights[node.input[1]][1],) if is_linear else ()


def others(model, names):
    return {node.name for node in model.graph.node} - names


@pytest.mark.parametrize("expectation", ["conv", "sum", "matmul"])
def test_decoding_stays_float_however_its_mean_over_bins_is_written_and_every_layer_is_int8(exported, expectation):
    module = dense_models.Boxes(expectation)
    model = exported(module, "objects")
    tail = float_tail(model)
    inside = kinds(model, tail)
    assert {"Softmax", "Sigmoid", "Concat"} <= set(inside)
    assert [inside[kind] for kind in PRODUCTS] == [int(expectation == "conv"), 0, int(expectation == "matmul")]
    layers = sum(isinstance(part, nn.Conv2d) for part in module.modules()) - 1  # the bins are none
    assert kinds(model, others(model, tail))["Conv"] == layers


def test_behind_a_choice_of_rows_all_is_float_and_what_they_are_chosen_by_up_to_its_layer(exported):
    model = exported(dense_models.Rows(chosen=True), "scores", "boxes")
    tail = float_tail(model)
    inside = kinds(model, tail)
    assert {"TopK", "ReduceMax", "GatherElements", "Sigmoid"} <= set(inside)
    assert inside["Conv"] == 0
    assert inside["MatMul"] + inside["Gemm"] >= 6, "the decoder's own layers: queries, output, two of the perceptron, scores, boxes"
    makes_scores = [node.name in tail for node in model.graph.node if dense_models.LABELS in made(model, node)]
    assert makes_scores == [False, True], "the layer that scores the places stays in INT8, the one that scores the rows does not"


def test_learned_rows_are_found_by_the_first_attention_of_constants(exported):
    model = exported(dense_models.Rows(chosen=False), "scores", "boxes")
    tail = float_tail(model)
    assert kinds(model, tail)["Conv"] == 0
    wide = [node.name in tail for node in model.graph.node if 2 * dense_models.WIDTH in made(model, node) and node.op_type == "MatMul"]
    assert wide[-1:] == [True], "the perceptron of the decoder"


def test_a_mask_is_enlarged_and_its_largest_value_taken_in_float_and_no_resize_inside_is(exported):
    model = exported(dense_models.Mask(), "area", "labels")
    inside = kinds(model, float_tail(model))
    assert inside["ArgMax"] == 1
    assert inside["Resize"] == 1
    assert kinds(model, others(model, float_tail(model)))["Resize"] == 1
    assert inside["Conv"] == 0


@pytest.mark.parametrize("name", MATRIX)
def test_models_of_ordinary_tasks_keep_every_layer_and_every_map_in_int8(name, tmp_path):
    model = onnx.load(export_onnx(make(name), tmp_path / "model.onnx"))
    inside = kinds(model, float_tail(model))
    assert not {"Conv", "Gemm", "GRU", "LSTM", "Gather", "LayerNormalization", "Relu", "AveragePool", "MaxPool"} & set(inside)


def sequence(*nodes, shape=(1, 12, 8), output=None, **constants):
    """Nodes in a row on ``x``, each as (operator, other inputs, attributes)."""
    random, made, source = np.random.default_rng(0), [], "x"
    weights = {name: random.normal(size=size).astype(np.float32) if isinstance(size, tuple) else size for name, size in constants.items()}
    for index, (kind, reads, attributes) in enumerate(nodes):
        result = "y" if index == len(nodes) - 1 else f"t{index}"
        results = [result, f"{result}_indices"] if kind == "TopK" else [result]
        made.append(helper.make_node(kind, [name or source for name in reads], results, f"{kind}_{index}", **attributes))
        source = result
    return onnx_model(made, {"x": list(shape)}, {"y": output}, weights)


def test_the_largest_values_as_features_are_no_choice_of_rows():
    """k-max pooling: what follows are the layers of a classifier, which answers one row a sample."""
    model = sequence(
        ("MatMul", ["", "w"], {}), ("TopK", ["", "k"], {"axis": 1}), ("Reshape", ["", "flat"], {}), ("MatMul", ["", "v"], {}),
        ("Relu", [""], {}), ("MatMul", ["", "u"], {}), ("Softmax", [""], {}),
        w=(8, 8), k=np.array([4]), flat=np.array([-1, 32]), v=(32, 16), u=(16, 4), output=["batch", 4], shape=["batch", 12, 8],
    )  # fmt: skip
    assert float_tail(model) == {"Softmax_6"}


def test_learned_queries_that_pool_a_sequence_are_no_set():
    """A classifier that looks at its words through some learned vectors, then joins them."""
    model = sequence(
        ("MatMul", ["", "w"], {}), ("Transpose", [""], {"perm": [0, 2, 1]}), ("MatMul", ["q", ""], {}), ("Softmax", [""], {}),
        ("MatMul", ["", "t0"], {}), ("Reshape", ["", "flat"], {}), ("MatMul", ["", "v"], {}),
        w=(8, 8), q=(1, 4, 8), flat=np.array([1, 32]), v=(32, 4), output=[1, 4],
    )  # fmt: skip
    assert float_tail(model) == set()


def test_a_network_that_ends_in_sums_of_layers_goes_on_until_the_last():
    """Features without a projection: sums that a layer reads too stay quantized."""
    model = sequence(
        ("MatMul", ["", "w"], {}), ("Relu", [""], {}), ("MatMul", ["", "w"], {}), ("Add", ["", "t1"], {}), ("Relu", [""], {}),
        ("MatMul", ["", "w"], {}), ("Add", ["", "t4"], {}), ("LpNormalization", [""], {}),
        w=(8, 8), output=[1, 12, 8],
    )  # fmt: skip
    assert float_tail(model) == {"Add_6", "LpNormalization_7"}


def test_places_that_values_are_read_at_are_computed_in_float():
    """Deformable attention, or a picture warped by what is learned: half a step of 8 bits is a pixel."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["maps"], "maps_layer"),
        helper.make_node("Conv", ["x", "g"], ["raw"], "places_layer"),
        helper.make_node("Tanh", ["raw"], ["bent"], "bend"),
        helper.make_node("Transpose", ["bent"], ["places"], "turn", perm=[0, 2, 3, 1]),
        helper.make_node("GridSample", ["maps", "places"], ["read"], "look"),
        helper.make_node("Conv", ["read", "v"], ["y"], "last_layer"),
    ]
    shapes = {"w": (4, 3, 1, 1), "g": (2, 3, 1, 1), "v": (4, 4, 1, 1)}
    weights = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    assert float_tail(onnx_model(nodes, {"x": [1, 3, 8, 8]}, {"y": None}, weights)) == {"bend", "turn", "look"}


@pytest.mark.parametrize(("name", "expected"), [("face_yunet_n_320", {"Sigmoid": 6}), ("face_rfb_320", {"Softmax": 1, "Exp": 1})])
def test_real_detectors_decode_in_float_and_keep_their_convolutions(name, expected, tmp_path):
    path = PACKS / "real_models" / f"{name}.onnx"
    if not path.is_file():
        pytest.skip(f"{path} is not there; set EDGEMM_DATA")
    model = files.load(user_onnx.prepare(onnx_card.draft(path), tmp_path / "model.onnx"))
    inside = kinds(model, float_tail(model))
    assert {kind: inside[kind] for kind in expected} == expected
    assert not {"Conv", "Relu", "MaxPool"} & set(inside)
