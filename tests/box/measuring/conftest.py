"""What the probes are tested on: a small float graph."""

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
helper = onnx.helper

from tests.onnx_models import model as onnx_model  # noqa: E402  (onnx may be absent)


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
    path = tmp_path_factory.mktemp("layer") / "model.onnx"
    onnx.save(onnx_model(nodes, {"x": ["batch", 64]}, {"kind": ["batch", 3]}, weights), path)
    return path


@pytest.fixture(scope="session")
def feed() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).normal(size=(1, 64)).astype(np.float32)}
