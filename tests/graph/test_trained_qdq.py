"""Q/DQ graphs that training made: quantize leaves them alone, reverts what is asked for in float, calibrates what is left."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemm.contracts import card_file as cards
from edgemm.contracts.step import Context
from edgemm.contracts.target import Numerics
from edgemm.data import dataset
from edgemm.graph import parity, trained_qdq
from edgemm.graph.branches import find_branches
from tests.onnx_models import model as onnx_model

CARD = {
    "model": "fused.onnx",
    "inputs": {
        "image": {"modality": "tensor", "dtype": "float32", "shape": ["batch", 3, 8, 8]},
        "audio": {"modality": "tensor", "dtype": "float32", "shape": ["batch", 12]},
    },
    "outputs": {"event": {"task": "tensor"}},
}


def build(floats=()):
    """Picture through a convolution and Relu, sound through a dense layer, joined, one head; each with symmetric int8 pairs."""
    rng = np.random.default_rng(0)
    constants, nodes = [numpy_helper.from_array(np.array(0, np.int8), "zero"), numpy_helper.from_array(np.array([2, 3]), "hw")], []

    def layer(name, op, source, shape, **attributes):
        stored = rng.integers(-127, 128, shape).astype(np.int8)
        steps, zeros = np.full(shape[0], 0.005, np.float32), np.zeros(shape[0], np.int8)
        values = {f"{name}_w": stored, f"{name}_s": steps, f"{name}_z": zeros, f"{name}_scale": np.float32(0.1)}
        constants.extend(numpy_helper.from_array(np.asarray(value), key) for key, value in values.items())
        if name in floats:
            constants.append(numpy_helper.from_array((stored * 0.005).astype(np.float32), f"{name}_float"))
            nodes.append(helper.make_node(op, [source, f"{name}_float"], [name], name=name, **attributes))
            return
        nodes.append(helper.make_node("QuantizeLinear", [source, f"{name}_scale", "zero"], [f"{name}_q"], name=f"{name}/q"))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", f"{name}_scale", "zero"], [f"{name}_d"], name=f"{name}/d"))
        stored_parts = [f"{name}_w", f"{name}_s", f"{name}_z"]
        nodes.append(helper.make_node("DequantizeLinear", stored_parts, [f"{name}_wd"], name=f"{name}/w", axis=0))
        nodes.append(helper.make_node(op, [f"{name}_d", f"{name}_wd"], [name], name=name, **attributes))

    layer("seen", "Conv", "image", (8, 3, 3, 3))
    nodes.append(helper.make_node("Relu", ["seen"], ["active"], name="relu"))
    layer("again", "Conv", "active", (8, 8, 3, 3))
    nodes.append(helper.make_node("ReduceMean", ["again", "hw"], ["pooled"], name="pool", keepdims=0))
    layer("heard", "Gemm", "audio", (8, 12), transB=1)
    nodes.append(helper.make_node("Concat", ["pooled", "heard"], ["joined"], name="join", axis=1))
    layer("event", "Gemm", "joined", (4, 16), transB=1)
    shapes = {"image": ["batch", 3, 8, 8], "audio": ["batch", 12]}
    graph = helper.make_graph(
        nodes, "fused",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info("event", TensorProto.FLOAT, ["batch", 4])], constants,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    trained_qdq.drop_unread(model)
    return model


@pytest.fixture(scope="module")
def card():
    return cards.parse(CARD)


@pytest.fixture
def quantized(card, tmp_path):
    """``quantized(model, "uint8", **options)``: the step's result."""
    from edgemm.workshop.steps.quantize import quantize

    def run(model, activations="mixed", **options):
        context = Context(card, dataset.synthetic(card), tmp_path, target="here", numerics=Numerics(activations))
        return quantize(model, context, calibration_samples=8, **options)

    return run


def answer(model, card):
    samples = [batch.inputs for batch in dataset.synthetic(card, seed=3).calibration(8)]
    return parity.run_reference(model, samples)[0]["event"]


def pairs(model, card):
    """Branches that hold quantizers of activations."""
    branches = find_branches(model, card)
    return {branches.of_node[node.name] for node in model.graph.node if node.op_type == "QuantizeLinear"}


@pytest.mark.parametrize("activations", ["mixed", "int8"])
def test_a_graph_that_is_done_comes_back_as_it_is(quantized, card, activations):
    model = build()
    found = quantized(model, activations)
    assert [node.SerializeToString() for node in found.graph.node] == [node.SerializeToString() for node in model.graph.node]
    assert np.array_equal(answer(found, card), answer(model, card))


def test_for_onnx_runtime_the_same_steps_are_unsigned(quantized, card):
    model = build()
    found = quantized(model, "uint8")
    onnx.checker.check_model(found, full_check=True)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in found.graph.initializer}
    zeros = {node.name: constants[node.input[2]] for node in found.graph.node if node.op_type == "QuantizeLinear"}
    assert {name: (str(zero.dtype), int(zero)) for name, zero in zeros.items()} == {
        "seen/q": ("uint8", 128), "again/q": ("uint8", 0), "heard/q": ("uint8", 128), "event/q": ("uint8", 128),
    }  # fmt: skip
    before, after = answer(model, card), answer(found, card)
    assert np.abs(before - after).max() < 0.1 * np.abs(before).max()  # only what a Relu made is clipped less


def test_a_branch_asked_for_in_float_loses_its_pairs(quantized, card):
    found = quantized(build(), precision={"head": "fp32", "audio": "fp32"})
    assert pairs(found, card) == {"image"}
    onnx.checker.check_model(found, full_check=True)


def test_a_branch_left_in_float_on_purpose_stays_so(quantized, card):
    model = build(floats=("heard",))
    trained_qdq.mark_floats(model, ["audio"])
    assert pairs(quantized(model), card) == {"image", "fusion"}


def test_a_branch_that_training_did_not_reach_is_calibrated_and_the_rest_is_not(quantized, card):
    pytest.importorskip("nncf")
    model = build(floats=("heard",))
    found = quantized(model)
    assert pairs(found, card) == {"image", "audio", "fusion"}
    steps = {tensor.name: numpy_helper.to_array(tensor) for tensor in found.graph.initializer}
    assert steps["again_scale"] == np.float32(0.1)
    before, after = answer(model, card), answer(found, card)
    assert np.abs(before - after).max() < 0.1 * np.abs(before).max()


def test_int8_by_name_overrides_the_purpose(quantized, card):
    pytest.importorskip("nncf")
    model = build(floats=("heard",))
    trained_qdq.mark_floats(model, ["audio"])
    assert pairs(quantized(model, precision={"audio": "int8"}), card) == {"image", "audio", "fusion"}


def test_zero_points_of_weights_are_no_longer_shared(card):
    model = build()
    for node in model.graph.node:
        if node.name in ("seen/w", "again/w", "heard/w"):
            node.input[2] = "seen_z"
    trained_qdq.own_zero_points(model)
    zeros = [node.input[2] for node in model.graph.node if node.name.endswith("/w")]
    assert len(set(zeros)) == 4
    onnx.checker.check_model(model, full_check=True)


def largest(joined=True, read_twice=False):
    """Words through convolutions and Relus, the largest of each, joined (or one alone), quantized, a dense layer."""
    rng, make = np.random.default_rng(0), helper.make_node
    names = ("a", "b") if joined else ("a",)
    values = {
        "step": np.float32(0.02), "scale": np.float32(0.017), "zero": np.int8(0), "axis": np.array([2]),
        "kernel": rng.integers(-63, 64, (16, 16, 3)).astype(np.int8), "kernel_s": np.full(16, 0.004, np.float32),
        "dense": rng.integers(-63, 64, (16 * len(names), 8)).astype(np.int8), "dense_s": np.float32(0.006),
        "zeros": np.zeros(16, np.int8), "dense_z": np.int8(0),
        "bias_a": rng.normal(0, 0.5, 16).astype(np.float32), "bias_b": np.ones(16, np.float32),
    }  # fmt: skip
    values = {name: value for name, value in values.items() if joined or name != "bias_b"}
    nodes = [make("QuantizeLinear", ["words", "step", "zero"], ["q"]), make("DequantizeLinear", ["q", "step", "zero"], ["d"])]
    nodes.append(make("DequantizeLinear", ["kernel", "kernel_s", "zeros"], ["kernel_d"], axis=0))
    for name in names:
        nodes.append(make("Conv", ["d", "kernel_d", f"bias_{name}"], [f"{name}_c"], name=f"{name}_c", pads=[1, 1]))
        nodes.append(make("Relu", [f"{name}_c"], [f"{name}_r"], name=f"{name}_r"))
        nodes.append(make("ReduceMax", [f"{name}_r", "axis"], [f"{name}_m"], name=f"{name}_m", keepdims=0))
    nodes.append(make("Concat", [f"{name}_m" for name in names], ["hits"], name="join", axis=1))
    nodes += [
        make("QuantizeLinear", ["hits", "scale", "zero"], ["hits_q"]),
        make("DequantizeLinear", ["hits_q", "scale", "zero"], ["hits_d"]),
    ]
    nodes.append(make("DequantizeLinear", ["dense", "dense_s", "dense_z"], ["dense_d"]))
    nodes.append(make("MatMul", ["hits_d", "dense_d"], ["event"], name="dense_layer"))
    outputs = {"event": ["batch", 8]} | ({"hits": ["batch", 16 * len(names)]} if read_twice else {})
    return onnx_model(nodes, {"words": ["batch", 16, 8]}, outputs, values)


@pytest.mark.parametrize("joined", [True, False])
def test_the_largest_values_are_taken_of_integers_and_stay_the_same_also_in_openvino(joined, tmp_path):
    from edgemm.box.targets.openvino import OpenVINO

    model, words = largest(joined), np.random.default_rng(1).normal(size=(20, 16, 8)).astype(np.float32)
    before = parity.reference_session(model).run(None, {"words": words})[0]
    trained_qdq.pairs_before_maxima(model)
    onnx.checker.check_model(model, full_check=True)
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    assert {makers[node.input[0]] for node in model.graph.node if node.op_type == "ReduceMax"} == {"DequantizeLinear"}
    assert np.array_equal(parity.reference_session(model).run(None, {"words": words})[0], before)
    onnx.save(model, tmp_path / "model.onnx")
    with OpenVINO().open(tmp_path / "model.onnx", precision="f32", threads=1) as session:
        found = np.concatenate([session.run({"words": row[None]})["event"] for row in words])
    np.testing.assert_allclose(found, before, atol=0.01 * np.abs(before).max())


def test_largest_values_that_somebody_else_reads_in_float_are_left_alone():
    model = largest(read_twice=True)
    before = model.SerializeToString()
    trained_qdq.pairs_before_maxima(model)
    assert model.SerializeToString() == before
