"""Files in half or double precision are read as float32 all through; what they take and answer in float16 stays so."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemm.graph import files, onnx_card, parity, user_onnx
from edgemm.graph.single_precision import OTHERS, bodies, to_single
from tests.graph import user_files
from tests.graph.user_files import nodes, weights

HALF, BRAIN, FLOAT = TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT
FEED = {name: np.random.default_rng(1).normal(0, 1, (1, width)).astype(np.float32) for name, width in (("a", 32), ("b", 8))}


def prepared(path, tmp_path):
    """The card, the prepared graph and what was said of it."""
    card, notes = onnx_card.draft(path), []
    return card, files.load(user_onnx.prepare(card, tmp_path / "made.onnx", notes.append)), notes


def left(graph: onnx.GraphProto) -> set[str]:
    """Names of the tensors and Casts that are half inside."""
    named = {tensor.name for tensor in graph.initializer if tensor.data_type in OTHERS}
    for node in graph.node:
        named |= {node.name for entry in node.attribute if (entry.name == "to" and entry.i in OTHERS) or entry.t.data_type in OTHERS}
        for body in bodies(node):
            named |= left(body)
    return named


def answer(model: onnx.ModelProto, dtype=np.float32) -> np.ndarray:
    return parity.run_reference(model, [{name: value.astype(dtype) for name, value in FEED.items()}])[0]["out"]


@pytest.mark.parametrize(("kind", "ends"), [(HALF, "float16"), (BRAIN, "float32"), (TensorProto.DOUBLE, "float32")])
def test_a_whole_file_in_single_precision_is_float32_inside_and_says_so(kind, ends, tmp_path):
    path = user_files.write(tmp_path / "m.onnx", nodes(), weights(kind), kind=kind)
    card, model, notes = prepared(path, tmp_path)
    assert [spec.options["dtype"] for spec in card.inputs.values()] == [ends, ends]
    assert notes == [f"'m.onnx' holds {OTHERS[kind]}: it is read as float32."]
    assert left(model.graph) <= {"out/Cast"}
    plain = onnx.load(user_files.write(tmp_path / "f.onnx", nodes(), {k: v.astype(np.float32) for k, v in weights(kind).items()}))
    np.testing.assert_allclose(answer(model, ends).astype(np.float32), answer(plain), rtol=2e-3, atol=2e-3)


def test_float32_ends_around_a_half_body_stay(tmp_path):
    ends = [helper.make_node("Cast", [f"{name}0"], [name], to=HALF) for name in ("a", "b")]
    body = [*ends, *nodes("o"), helper.make_node("Cast", ["o"], ["out"], to=FLOAT)]
    _, model, notes = prepared(user_files.write(tmp_path / "m.onnx", body, weights(HALF), inputs={"a0": 32, "b0": 8}), tmp_path)
    assert len(notes) == 1
    assert not left(model.graph)


def test_constants_bodies_and_weights_in_other_files_are_read_too(tmp_path):
    four = numpy_helper.from_array(np.ones(4, np.float16), "four")
    value = helper.make_tensor_value_info("t", HALF, ["N", 4])
    then = helper.make_graph(
        [helper.make_node("Constant", [], ["k"], value=four), helper.make_node("Add", ["o", "k"], ["t"])], "then", [], [value]
    )
    other = helper.make_graph([helper.make_node("Mul", ["o", "o"], ["t"])], "other", [], [value])
    body = [
        *nodes("o"),
        helper.make_node("ReduceMax", ["a"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["is_there"], to=TensorProto.BOOL),
        helper.make_node("If", ["is_there"], ["out"], then_branch=then, else_branch=other),
    ]
    outputs = {"out": 4, "o": 4}  # one of them is read inside too
    path = user_files.write(
        tmp_path / "m.onnx", body, weights(HALF), kind=HALF, outputs=outputs, save_as_external_data=True, location="m.bin", size_threshold=0
    )
    original = answer(onnx.load(path), np.float16)
    _, model, _ = prepared(path, tmp_path)
    assert left(model.graph) == {"out/Cast", "o/Cast"}
    np.testing.assert_allclose(answer(model, np.float16).astype(np.float32), original.astype(np.float32), rtol=2e-3, atol=2e-3)


def test_a_state_in_float16_comes_back_in_float16(tmp_path):
    body = [
        helper.make_node("MatMul", ["a", "w1"], ["x"]),
        helper.make_node("Add", ["x", "h"], ["hn"]),
        helper.make_node("Relu", ["hn"], ["out"]),
    ]
    path = user_files.write(tmp_path / "m.onnx", body, weights(HALF), kind=HALF, inputs={"a": 32, "h": 32}, outputs={"out": 32, "hn": 32})
    card, model, _ = prepared(path, tmp_path)
    assert card.inputs["h"].options["state"] == "hn"
    assert {value.type.tensor_type.elem_type for value in [*model.graph.input, *model.graph.output]} == {HALF}


def test_a_float32_graph_is_left_as_it_is(tmp_path):
    model = onnx.load(user_files.write(tmp_path / "m.onnx", nodes(), weights()))
    before = model.SerializeToString()
    assert to_single(model) == []
    assert model.SerializeToString() == before
