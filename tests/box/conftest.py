"""What targets and probes are both tested on."""

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two INT8 convolutions with zero points other than 0, as ONNX Runtime's quantizer writes them: OpenVINO refuses it in bf16 on AMX."""
    onnx = pytest.importorskip("onnx")
    from tests.onnx_models import model as onnx_model

    helper, rng = onnx.helper, np.random.default_rng(0)
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
    onnx.save(onnx_model(nodes, {"x": [1, 16, 8, 8]}, {"y": [1, 16, 4, 4]}, weights), path)
    return path
