"""Each clean-up of an exported graph removes what it should and keeps every result."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from edgemm.graph import parity
from edgemm.graph.exporter_leftovers import tidy
from tests.onnx_models import model as onnx_model

FLOAT = TensorProto.FLOAT


def tidied(model: onnx.ModelProto, **groups: str) -> onnx.ModelProto:
    inside = ir.serde.deserialize_model(model)
    tidy(inside, groups)
    return ir.serde.serialize_model(inside)


def same(before: onnx.ModelProto, after: onnx.ModelProto, *feeds: dict) -> bool:
    found = parity.compare(parity.run_reference(before, feeds)[0], parity.run_reference(after, feeds)[0])
    return all(entry.max_abs < 1e-6 for entry in found.values())


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_a_state_of_zeros_is_dropped_from_a_recurrent_node():
    nodes = [
        helper.make_node("Shape", ["x"], ["n"], name="n", start=1, end=2),
        helper.make_node("Concat", ["one", "n", "five"], ["shape"], name="shape", axis=0),
        helper.make_node("Expand", ["zero", "shape"], ["h"], name="h"),
        helper.make_node("GRU", ["x", "w", "r", "", "", "h"], ["", "y"], name="gru", hidden_size=5),
    ]
    constants = {"w": normal(1, 15, 3), "r": normal(1, 15, 5), "one": [1], "five": [5], "zero": np.float32(0)}
    model = onnx_model(nodes, {"x": [4, "batch", 3]}, {"y": [1, "batch", 5]}, constants)
    made = tidied(model)
    assert kinds(made) == ["GRU"]
    assert same(model, made, {"x": normal(4, 1, 3)}, {"x": normal(4, 3, 3)})


def test_a_state_that_is_not_zero_stays():
    nodes = [helper.make_node("GRU", ["x", "w", "r", "", "", "h"], ["", "y"], name="gru", hidden_size=5)]
    model = onnx_model(nodes, {"x": [4, 1, 3]}, {"y": [1, 1, 5]}, {"w": normal(1, 15, 3), "r": normal(1, 15, 5), "h": normal(1, 1, 5)})
    assert len(tidied(model).graph.node[0].input) == 6


def test_a_reshape_by_computed_sizes_gets_a_constant_target():
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], name="s"),
        helper.make_node("Slice", ["s", "zero", "one"], ["n"], name="n"),
        helper.make_node("Slice", ["s", "one", "two"], ["t"], name="t"),
        helper.make_node("Slice", ["s", "two", "four"], ["rest"], name="rest"),
        helper.make_node("ReduceProd", ["rest"], ["width"], name="width"),
        helper.make_node("Concat", ["n", "t", "minus"], ["target"], name="target", axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"], name="reshape"),
    ]
    constants = {"zero": [0], "one": [1], "two": [2], "four": [4], "minus": [-1]}
    model = onnx_model(nodes, {"x": ["batch", "time", 2, 3]}, {"y": ["batch", "time", 6]}, constants)
    made = tidied(model)
    assert kinds(made) == ["Reshape"]
    assert same(model, made, {"x": normal(1, 4, 2, 3)}, {"x": normal(3, 5, 2, 3)})


def test_a_reshape_with_two_sizes_to_guess_is_left_alone():
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], name="s"),
        helper.make_node("Gather", ["s", "order"], ["target"], name="target"),
        helper.make_node("Reshape", ["x", "target"], ["y"], name="reshape"),
    ]
    model = onnx_model(nodes, {"x": ["batch", "time", 3]}, {"y": ["time", "batch", 3]}, {"order": [1, 0, 2]})
    made = tidied(model)
    assert "Shape" in kinds(made)
    assert same(model, made, {"x": normal(2, 4, 3)})


def test_keys_are_turned_by_one_transpose():
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["a"], name="a"),
        helper.make_node("Transpose", ["a"], ["b"], name="b", perm=[0, 2, 1]),
        helper.make_node("Reshape", ["b", "back"], ["y"], name="c"),
    ]
    model = onnx_model(nodes, {"x": ["batch", 2, 5, 4]}, {"y": ["batch", 2, 4, 5]}, {"flat": [-1, 5, 4], "back": [-1, 2, 4, 5]})
    made = tidied(model)
    assert kinds(made) == ["Transpose"]
    assert made.graph.node[0].output[0] == "y"
    assert same(model, made, {"x": normal(1, 2, 5, 4)}, {"x": normal(3, 2, 5, 4)})


def attention(mask: list, constants: dict) -> onnx.ModelProto:
    """Scores plus a mask, Softmax, the exporter's guard, a product with the values."""
    nodes = [
        *mask,
        helper.make_node("Add", ["scores", "mask"], ["masked"], name="add"),
        helper.make_node("Softmax", ["masked"], ["p"], name="softmax", axis=-1),
        helper.make_node("IsNaN", ["p"], ["bad"], name="isnan"),
        helper.make_node("Where", ["bad", "zero", "p"], ["safe"], name="guard"),
        helper.make_node("MatMul", ["safe", "values"], ["y"], name="mixing"),
    ]
    inputs = {"scores": ["batch", 1, 3, 3], "values": ["batch", 1, 3, 2], "open": ["batch", 1, 3, 3]}
    return onnx_model(nodes, inputs, {"y": ["batch", 1, 3, 2]}, {"zero": np.float32(0), **constants})


def test_a_guard_behind_a_constant_mask_without_empty_rows_goes():
    causal = np.where(np.tril(np.ones((3, 3))) > 0, 0, -np.inf).astype(np.float32)
    model = attention([], {"mask": causal})
    made = tidied(model)
    assert kinds(made) == ["Add", "Softmax", "MatMul"]
    assert same(model, made, {"scores": normal(1, 1, 3, 3), "values": normal(1, 1, 3, 2), "open": np.ones((1, 1, 3, 3), np.float32)})


def test_a_guard_behind_a_constant_mask_with_an_empty_row_stays():
    mask = np.zeros((3, 3), np.float32)
    mask[1] = -np.inf
    assert "IsNaN" in kinds(tidied(attention([], {"mask": mask})))


@pytest.mark.parametrize("closed", [-np.inf, np.finfo(np.float32).min])
def test_rows_that_an_input_masks_altogether_give_zeros_without_the_guard(closed):
    mask = [
        helper.make_node("Cast", ["open"], ["is_open"], name="cast", to=TensorProto.BOOL),
        helper.make_node("Where", ["is_open", "zero", "closed"], ["mask"], name="switch"),
    ]
    made = tidied(attention(mask, {"closed": np.float32(closed)}))
    exact = attention(mask, {"closed": np.float32(-np.inf)})
    assert "IsNaN" not in kinds(made)
    opened = np.ones((1, 1, 3, 3), np.float32)
    opened[0, 0, 1] = 0
    opened[0, 0, 2, 0] = 0
    feed = {"scores": normal(1, 1, 3, 3), "values": normal(1, 1, 3, 2), "open": opened}
    assert same(exact, made, feed)
    assert made.graph.output[0].name == "y"


def test_each_branch_reads_the_batch_size_from_its_own_input():
    nodes = [
        helper.make_node("Shape", ["b"], ["n"], name="n", start=0, end=1),
        helper.make_node("Concat", ["n", "one"], ["shape"], name="shape", axis=0),
        helper.make_node("Expand", ["token", "shape"], ["tokens"], name="tokens"),
        helper.make_node("Concat", ["tokens", "a"], ["y"], name="y", axis=1),
        helper.make_node("Relu", ["b"], ["z"], name="z"),
    ]
    model = onnx_model(
        nodes, {"a": ["batch", 3], "b": ["batch", 2]}, {"y": ["batch", 4], "z": ["batch", 2]}, {"token": normal(1, 1), "one": [1]}
    )
    made = tidied(model)
    shape = next(node for node in made.graph.node if node.op_type == "Shape")
    assert list(shape.input) == ["a"]
    assert same(model, made, {"a": normal(2, 3), "b": normal(2, 2)})


def test_openvino_reads_what_follows_a_fourier_transform_with_its_own_sizes(tmp_path):
    openvino = pytest.importorskip("openvino")
    nodes = [
        helper.make_node("DFT", ["x"], ["spectrum"], name="dft", axis=1, onesided=1),
        helper.make_node("ReduceL2", ["spectrum", "last"], ["size"], name="size", keepdims=0),
        helper.make_node("ReduceMean", ["size", "last"], ["y"], name="mean", keepdims=0),
    ]
    model = onnx_model(nodes, {"x": ["batch", 16, 1]}, {"y": ["batch"]}, {"last": np.array([-1])})
    made = tidied(model)
    assert kinds(made) == ["DFT", "Reshape", "ReduceL2", "ReduceMean"]
    assert kinds(tidied(made)) == kinds(made)
    assert same(model, made, {"x": normal(1, 16, 1)}, {"x": normal(3, 16, 1)})
    onnx.save(made, tmp_path / "m.onnx")
    (answer,) = openvino.Core().compile_model(tmp_path / "m.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(normal(2, 16, 1)).values()
    np.testing.assert_allclose(answer, parity.run_reference(model, [{"x": normal(2, 16, 1)}])[0]["y"], rtol=1e-4)
