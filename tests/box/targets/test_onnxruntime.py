"""What is ONNX Runtime's own: the reference, with or without graph rewrites."""

import numpy as np
import pytest

from edgemm.contracts import plugins
from edgemm.contracts.target import Target
from edgemm.errors import TargetError
from edgemm.store.machine import usable_cores

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT


@pytest.fixture
def onnxruntime() -> Target:
    return plugins.load(Target, "onnxruntime")


def test_fused_int8_is_told_from_int8_computed_in_float(onnxruntime, quantized):
    x = {"x": np.zeros((1, 16, 8, 8), np.float32)}
    ran = {}
    for optimize in ("all", "none"):
        with onnxruntime.open(quantized, optimize=optimize) as session:
            session.run(x)
            ran[optimize] = {layer.kind: layer.precision for layer in session.layers()}
            if optimize == "none":
                assert session.precision() == "f32"
    assert "Conv" in ran["none"]
    assert ran["none"]["Conv"] == "f32"


def test_unsigned_activations_make_int8_convolutions(onnxruntime, tmp_path, write):
    rng = np.random.default_rng(0)
    weights = {"s": np.float32(0.05), "z": np.uint8(128), "ws": np.float32(0.01), "w0": np.int8(0)}
    weights["w8"] = rng.integers(-127, 127, (8, 4, 3, 3), dtype=np.int8)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w8", "ws", "w0"], ["w"]),
        helper.make_node("Conv", ["xd", "w"], ["c"], "the_conv"),
        helper.make_node("QuantizeLinear", ["c", "s", "z"], ["cq"]),
        helper.make_node("DequantizeLinear", ["cq", "s", "z"], ["y"]),
    ]
    path = write(tmp_path / "m.onnx", nodes, {"x": (FLOAT, ["batch", 4, 8, 8])}, {"y": (FLOAT, ["batch", 8, 6, 6])}, weights)
    with onnxruntime.open(path) as session:
        assert [layer.kind for layer in session.layers() if layer.precision == "int8" and layer.kind != "Transpose"] == ["QLinearConv"]
        assert session.precision() == "int8"


def test_layers_come_with_their_time(onnxruntime, conv):
    with onnxruntime.open(conv) as session:
        assert all(layer.time_us is not None for layer in session.layers())


def test_a_model_with_a_free_length_tells_its_layers_for_the_shapes_last_seen(onnxruntime, words):
    with onnxruntime.open(words) as session:
        session.run({"ids": np.zeros((2, 7), np.int64)})
        assert [layer.kind for layer in session.layers()] == ["Gather", "ReduceMean"]


def test_a_node_it_has_no_kernel_for_is_named(onnxruntime, tmp_path, write):
    relu = [helper.make_node("Relu", ["x"], ["y"], "the_relu")]
    facts = (onnx.TensorProto.UINT16, [1, 2])
    with pytest.raises(TargetError, match=r"onnxruntime refuses 'm\.onnx'(?s:.)*Relu(?s:.)*fix: "):
        onnxruntime.open(write(tmp_path / "m.onnx", relu, {"x": facts}, {"y": facts}, {}))


def test_a_node_that_fails_while_running_is_named(onnxruntime, tmp_path, write):
    reshape = [helper.make_node("Reshape", ["x", "wanted"], ["y"], "the_reshape")]
    path = write(tmp_path / "m.onnx", reshape, {"x": (FLOAT, ["batch", 3])}, {"y": (FLOAT, ["rows", 2])}, {"wanted": np.array([-1, 2])})
    with onnxruntime.open(path) as session:
        session.run({"x": np.zeros((2, 3), np.float32)})
        with pytest.raises(TargetError, match=r"onnxruntime failed while running 'm\.onnx' at node 'the_reshape' \(Reshape\)"):
            session.run({"x": np.zeros((1, 3), np.float32)})


def test_its_choices_are_thread_counts(onnxruntime):
    assert {choice["threads"] for choice in onnxruntime.choices()} == {1, usable_cores()}
    assert plugins.find(Target, "onnxruntime")(threads=1).choices() == [{"threads": 1}]


def test_an_option_it_does_not_know_is_refused(onnxruntime, conv):
    with pytest.raises(TargetError, match=r"onnxruntime: runtime option 'optimize' is 'some'(?s:.)*'all' or 'none'"):
        onnxruntime.open(conv, optimize="some")


def test_a_closed_session_says_so(onnxruntime, conv):
    session = onnxruntime.open(conv)
    session.close()
    with pytest.raises(TargetError, match="is closed"):
        session.run({"x": np.zeros((1, 16, 12, 12), np.float32)})
