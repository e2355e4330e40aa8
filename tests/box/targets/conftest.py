"""Small graphs for the targets' own tests; what holds for every target is in contract/test_every_target.py."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
helper, numpy_helper, FLOAT = onnx.helper, onnx.numpy_helper, onnx.TensorProto.FLOAT


def save(path: Path, nodes: list, inputs: dict, outputs: dict, weights: dict[str, np.ndarray], **options: object) -> Path:
    """Write a graph; ``inputs`` and ``outputs`` are name -> (element type, shape)."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, *facts) for name, facts in inputs.items()],
        [helper.make_tensor_value_info(name, *facts) for name, facts in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path, **options)
    return path


@pytest.fixture(scope="session")
def write() -> Callable[..., Path]:
    """``write(path, nodes, inputs, outputs, weights)``: saves a graph."""
    return save


@pytest.fixture(scope="session")
def conv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """x (batch, 16, 12, 12) float32 -> y (batch, 10): convolution, ReLU, mean, layer."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(0, 0.1, (32, 16, 3, 3)).astype(np.float32),
        "b": rng.normal(0, 1, 32).astype(np.float32),
        "axes": np.array([2, 3]),
        "fc": rng.normal(size=(32, 10)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "the_conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "the_relu"),
        helper.make_node("ReduceMean", ["r", "axes"], ["m"], "the_mean", keepdims=0),
        helper.make_node("MatMul", ["m", "fc"], ["y"], "the_layer"),
    ]
    path = tmp_path_factory.mktemp("conv") / "model.onnx"
    return save(path, nodes, {"x": (FLOAT, ["batch", 16, 12, 12])}, {"y": (FLOAT, ["batch", 10])}, weights)


@pytest.fixture(scope="session")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest INT8 graph that OpenVINO 2026.4 computes wrongly when its batch is left dynamic.

    x (batch, 16, 8, 8) -> Q/DQ -> Conv with bias -> ReLU -> Q/DQ (uint8) -> mean -> Q/DQ -> Gather by Range(Shape) -> y (batch, 32).
    """
    rng = np.random.default_rng(0)
    kernel = rng.normal(0, 0.1, (32, 16, 3, 3)).astype(np.float32)
    scale = np.abs(kernel).max(axis=(1, 2, 3)) / 127
    weights = {
        "w8": np.clip(np.round(kernel / scale[:, None, None, None]), -127, 127).astype(np.int8),
        "ws": scale.astype(np.float32),
        "w0": np.zeros(32, np.int8),
        "b": rng.normal(0, 1.5, 32).astype(np.float32),
        "xs": np.float32(3 / 127),
        "x0": np.int8(0),
        "rs": np.float32(6 / 255),
        "r0": np.uint8(0),
        "axes": np.array([2, 3]),
        "zero": np.int64(0),
        "one": np.int64(1),
        "flat": np.array([-1, 32]),
        "first": np.array(0),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "x0"], ["xq"], "x_q"),
        helper.make_node("DequantizeLinear", ["xq", "xs", "x0"], ["xd"], "x_dq"),
        helper.make_node("DequantizeLinear", ["w8", "ws", "w0"], ["w"], "w_dq", axis=0),
        helper.make_node("Conv", ["xd", "w", "b"], ["c"], "the_conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "the_relu"),
        helper.make_node("QuantizeLinear", ["r", "rs", "r0"], ["rq"], "r_q"),
        helper.make_node("DequantizeLinear", ["rq", "rs", "r0"], ["rd"], "r_dq"),
        helper.make_node("ReduceMean", ["rd", "axes"], ["m"], "the_mean", keepdims=0),
        helper.make_node("QuantizeLinear", ["m", "rs", "r0"], ["mq"], "m_q"),
        helper.make_node("DequantizeLinear", ["mq", "rs", "r0"], ["md"], "m_dq"),
        helper.make_node("Reshape", ["md", "flat"], ["f"], "the_reshape"),
        helper.make_node("Shape", ["x"], ["shape"], "the_shape"),
        helper.make_node("Gather", ["shape", "first"], ["count"], "the_count"),
        helper.make_node("Range", ["zero", "count", "one"], ["rows"], "the_range"),
        helper.make_node("Gather", ["f", "rows"], ["y"], "the_gather"),
    ]
    path = tmp_path_factory.mktemp("quantized") / "model.onnx"
    return save(path, nodes, {"x": (FLOAT, ["batch", 16, 8, 8])}, {"y": (FLOAT, ["batch", 32])}, weights)


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ids (batch, length) int64 -> y (batch, 8): mean of embeddings; the length is free."""
    rng = np.random.default_rng(0)
    weights = {"table": rng.normal(size=(50, 8)).astype(np.float32), "one": np.array([1])}
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"], "the_embedding"),
        helper.make_node("ReduceMean", ["e", "one"], ["y"], "the_mean", keepdims=0),
    ]
    path = tmp_path_factory.mktemp("words") / "model.onnx"
    return save(path, nodes, {"ids": (onnx.TensorProto.INT64, ["batch", "length"])}, {"y": (FLOAT, ["batch", 8])}, weights)


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
    return save(path, nodes, {"x": (FLOAT, [1, 16, 8, 8])}, {"y": (FLOAT, [1, 16, 4, 4])}, weights)
