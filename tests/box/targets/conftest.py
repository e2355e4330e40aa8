"""Small graphs for the targets' own tests; what holds for every target is in contract/test_every_target.py."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT

from tests.onnx_models import model as onnx_model  # noqa: E402  (onnx may be absent)


def save(path: Path, nodes: list, inputs: dict, outputs: dict, weights: dict[str, np.ndarray], **options: object) -> Path:
    """Write a graph; arguments as of ``onnx_model``, ``options`` of ``onnx.save``."""
    onnx.save(onnx_model(nodes, inputs, outputs, weights), path, **options)
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
