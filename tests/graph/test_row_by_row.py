"""ONNX files whose answer to a row hangs on other rows, or on chance, are refused by node."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemm.errors import ExportError
from edgemm.graph.row_by_row import require_own_answers

RNG = np.random.default_rng(0)
SAMPLES = [{"x": RNG.normal(size=(1, 4)).astype(np.float32)} for _ in range(2)]


def graph(*nodes, batch="batch", **constants):
    """From ``x`` (batch, 4) to ``y``."""
    inside = helper.make_graph(
        list(nodes), "own",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 4])], [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    return helper.make_model(inside, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


CENTRED = (
    helper.make_node("ReduceMean", ["x", "axes"], ["mean"], name="mean_of_rows", keepdims=1),
    helper.make_node("Sub", ["x", "mean"], ["y"], name="centred"),
)


@pytest.mark.parametrize(
    ("nodes", "name"),
    [
        (CENTRED, r"node 'mean_of_rows' \(ReduceMean\)"),
        ([helper.make_node("Softmax", ["x"], ["y"], name="over_rows", axis=0)], r"node 'over_rows' \(Softmax\)"),
    ],
    ids=["centred", "softmax"],
)
def test_a_row_that_is_answered_by_the_others_is_refused_by_node(nodes, name):
    with pytest.raises(ExportError, match=f"{name}: a row's answer depends on the other rows"):
        require_own_answers(graph(*nodes, axes=np.array([0])), SAMPLES)


@pytest.mark.parametrize(
    ("nodes", "name"),
    [
        (
            [helper.make_node("RandomNormalLike", ["x"], ["n"], name="noise"), helper.make_node("Add", ["x", "n"], ["y"], name="add")],
            r"node 'noise' \(RandomNormalLike\)",
        ),
        ([helper.make_node("Dropout", ["x", "share", "on"], ["y"], name="drop")], r"node 'drop' \(Dropout\)"),
    ],
    ids=["noise", "dropout in training"],
)
def test_an_answer_by_chance_is_refused_by_node(nodes, name):
    model = graph(*nodes, share=np.float32(0.5), on=np.array(True))
    with pytest.raises(ExportError, match=f"{name}: output 'y' is drawn by chance"):
        require_own_answers(model, SAMPLES)


def test_a_graph_of_one_row_a_call_and_one_of_rows_that_know_nothing_of_each_other_pass():
    require_own_answers(graph(*CENTRED, batch=1, axes=np.array([0])), SAMPLES)
    require_own_answers(graph(*CENTRED, axes=np.array([1])), SAMPLES)
