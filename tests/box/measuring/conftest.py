"""What the probes are tested on: a small float graph, and an INT8 one that OpenVINO refuses in bf16."""

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
helper, numpy_helper, FLOAT = onnx.helper, onnx.numpy_helper, onnx.TensorProto.FLOAT


@pytest.fixture(scope="session")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """x (batch, 64) float32 -> kind (batch, 3): two layers."""
    rng = np.random.default_rng(0)
    weights = {"a": rng.normal(size=(64, 64)).astype(np.float32), "b": rng.normal(size=(64, 3)).astype(np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"], "bend"),
        helper.make_node("MatMul", ["r", "b"], ["kind"], "second"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("kind", FLOAT, ["batch", 3])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    path = tmp_path_factory.mktemp("layer") / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.fixture(scope="session")
def feed() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).normal(size=(1, 64)).astype(np.float32)}


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two INT8 convolutions with zero points other than 0, as ONNX Runtime's quantizer writes them: OpenVINO refuses it in bf16 on AMX."""
    rng = np.random.default_rng(0)
    weights = {"s": np.float32(0.05), "z": np.int8(3), "ws": np.float32(0.01), "w0": np.int8(0)}
    weights |= {name: rng.integers(-127, 127, (16, 16, 3, 3), dtype=np.int8) for name in ("a8", "b8")}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], "x_q"),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], "x_dq"),
        helper.make_node("DequantizeLinear", ["a8", "ws", "w0"], ["a"], "a_dq"),
        helper.make_node("Conv", ["xd", "a"], ["c"], "first_conv"),
        helper.make_node("QuantizeLinear", ["c", "s", "z"], ["cq"], "middle_q"),
        helper.make_node("DequantizeLinear", ["cq", "s", "z"], ["cd"], "middle_dq"),
        helper.make_node("DequantizeLinear", ["b8", "ws", "w0"], ["b"], "b_dq"),
        helper.make_node("Conv", ["cd", "b"], ["e"], "second_conv"),
        helper.make_node("QuantizeLinear", ["e", "s", "z"], ["eq"], "last_q"),
        helper.make_node("DequantizeLinear", ["eq", "s", "z"], ["y"], "last_dq"),
    ]
    path = tmp_path_factory.mktemp("foreign") / "model.onnx"
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, [1, 16, 8, 8])],
        [helper.make_tensor_value_info("y", FLOAT, [1, 16, 4, 4])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path
