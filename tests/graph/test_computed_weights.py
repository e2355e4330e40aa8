"""Weights computed from constants alone become constants; all else stays."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemm.graph import parity
from edgemm.graph.computed_weights import settle

WEIGHT = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)


def settled(*nodes):
    """(the graph with computed weights settled, whether it answers as before)."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        list(nodes), "own", [value("x", TensorProto.FLOAT, ["batch", 64])], [value("y", TensorProto.FLOAT, ["batch", 64])],
        [numpy_helper.from_array(array, name) for name, array in {"w": WEIGHT, "axis": np.array([1]), "axes": np.array([0])}.items()],
    )  # fmt: skip
    before = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    model = ir.serde.deserialize_model(before)
    settle(model)
    after = ir.serde.serialize_model(model)
    answers = [parity.run_reference(form, [{"x": WEIGHT[:3]}])[0]["y"] for form in (before, after)]
    return [node.op_type for node in after.graph.node], np.allclose(*answers, atol=1e-5)


MEAN = helper.make_node("ReduceMean", ["w", "axis"], ["mean"])
CENTRED = helper.make_node("Sub", ["w", "mean"], ["centred"])


def test_a_weight_computed_from_constants_becomes_one():
    assert settled(MEAN, CENTRED, helper.make_node("Gemm", ["x", "centred"], ["y"])) == (["Gemm"], True)


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("Transpose", ["w"], ["turned"], perm=[1, 0]), helper.make_node("MatMul", ["x", "turned"], ["y"])],
        [
            helper.make_node("ReduceMean", ["x", "axes"], ["mean"]),
            helper.make_node("Sub", ["w", "mean"], ["centred"]),
            helper.make_node("MatMul", ["x", "centred"], ["y"]),
        ],
    ],
    ids=["turned", "computed from the input"],
)
def test_what_is_laid_out_anew_or_depends_on_an_input_stays(nodes):
    assert settled(*nodes) == ([node.op_type for node in nodes], True)
