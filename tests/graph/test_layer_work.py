"""What a graph's layers have to do, counted from the file."""

import numpy as np
import onnx
import pytest
from onnx import helper

from edgemm.graph.layer_work import layers
from tests.onnx_models import model as onnx_model


@pytest.fixture
def graph(tmp_path):
    """A convolution, its activation, a table that is looked up, and a GRU of five steps."""
    weights = {
        "w": np.ones((8, 3, 3, 3), np.float32),
        "table": np.ones((100, 4), np.float32),
        "gw": np.ones((1, 18, 4), np.float32),
        "gr": np.ones((1, 18, 6), np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["seen"], name="relu"),
        helper.make_node("Gather", ["table", "words"], ["embedded"], name="embed"),
        helper.make_node("GRU", ["embedded", "gw", "gr"], ["said", ""], name="gru", hidden_size=6),
    ]
    inputs = {"image": [1, 3, 10, 10], "words": (onnx.TensorProto.INT64, [5, 1])}
    path = tmp_path / "model.onnx"
    onnx.save(onnx_model(nodes, inputs, {"seen": [1, 8, 10, 10], "said": [5, 1, 1, 6]}, weights), path)
    return path


def test_fused_operators_are_no_layers_and_a_recurrent_one_starts_at_every_step(graph):
    conv, embed, gru = layers(graph, None)
    assert (conv.macs, conv.weights, conv.values, conv.launches, conv.quantizable) == (8 * 100 * 27, 216, 300 + 800, 1, True)
    assert (embed.macs, embed.weights, embed.quantizable) == (0, 0, True)
    assert (gru.macs, gru.launches, gru.weights, gru.quantizable) == (5 * (18 * 4 + 18 * 6), 5, 18 * 10, False)
    assert {conv.branch, gru.branch} != {conv.branch}


def test_a_front_end_is_a_row_of_its_own_and_no_int8_runs_it(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["sound", "mel"], ["m"], name="frontend/sound/0_MatMul"),
        helper.make_node("MatMul", ["m", "w"], ["y"], name="head"),
    ]
    constants = {"mel": np.ones((100, 40), np.float32), "w": np.ones((40, 3), np.float32)}
    onnx.save(onnx_model(nodes, {"sound": [1, 100]}, {"y": [1, 3]}, constants), tmp_path / "model.onnx")
    assert [(layer.branch, layer.quantizable) for layer in layers(tmp_path / "model.onnx", None)] == [
        ("frontend:sound", False), ("head:y", True),
    ]  # fmt: skip
