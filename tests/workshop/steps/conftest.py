"""A small fused graph written by hand: picture through convolutions, sound through a GRU, words through a table; joined; two heads."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemm.contracts import card_file as cards
from edgemm.contracts.card import Card
from edgemm.contracts.step import Context
from edgemm.contracts.target import Numerics
from edgemm.data import dataset

CARD = {
    "model": "fused.onnx",
    "inputs": {
        "image": {"modality": "tensor", "dtype": "float32", "shape": ["batch", 3, 12, 12]},
        "audio": {"modality": "tensor", "dtype": "float32", "shape": ["batch", 10, 6]},
        "words": {"modality": "tensor", "dtype": "int64", "shape": ["batch", 5]},
    },
    "outputs": {"event": {"task": "tensor"}, "level": {"task": "tensor"}},
}


def build() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = {
        "k1": rng.normal(0, 0.3, (16, 3, 3, 3)), "b1": rng.normal(0, 0.5, 16),
        "k2": rng.normal(0, 0.3, (16, 1, 3, 3)), "b2": rng.normal(0, 0.5, 16),
        "w": rng.normal(0, 0.3, (1, 96, 6)), "r": rng.normal(0, 0.3, (1, 96, 32)), "b": rng.normal(0, 0.3, (1, 192)),
        "table": rng.normal(0, 1, (500, 16)), "fc": rng.normal(0, 0.2, (64, 64)), "fb": rng.normal(0, 0.2, 64),
        "eh": rng.normal(0, 0.2, (4, 64)), "lh": rng.normal(0, 0.2, (1, 64)), "half": np.array(0.5),
    }  # fmt: skip
    constants = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights.items()]
    constants += [numpy_helper.from_array(np.array(value), name) for name, value in {"hw": [2, 3], "first": [0], "second": [1]}.items()]
    nodes = [
        helper.make_node("Mul", ["image", "half"], ["scaled"], name="frontend/image/0_Mul"),
        helper.make_node("Conv", ["scaled", "k1", "b1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "k2", "b2"], ["c2"], name="conv2", group=16),
        helper.make_node("Relu", ["c2"], ["r2"], name="relu2"),
        helper.make_node("ReduceMean", ["r2", "hw"], ["seen"], name="pool", keepdims=0),
        helper.make_node("Transpose", ["audio"], ["steps"], name="turn", perm=[1, 0, 2]),
        helper.make_node("GRU", ["steps", "w", "r", "b"], ["", "state"], name="gru", hidden_size=32, linear_before_reset=1),
        helper.make_node("Squeeze", ["state", "first"], ["heard"], name="squeeze"),
        helper.make_node("Gather", ["table", "words"], ["vectors"], name="look"),
        helper.make_node("ReduceMean", ["vectors", "second"], ["read"], name="bag", keepdims=0),
        helper.make_node("Concat", ["seen", "heard", "read"], ["joined"], name="join", axis=1),
        helper.make_node("Gemm", ["joined", "fc", "fb"], ["mixed"], name="mix", transB=1),
        helper.make_node("Relu", ["mixed"], ["active"], name="relu3"),
        helper.make_node("Gemm", ["active", "eh"], ["event"], name="event_head", transB=1),
        helper.make_node("Gemm", ["active", "lh"], ["level"], name="level_head", transB=1),
    ]
    shapes = {"image": ["batch", 3, 12, 12], "audio": ["batch", 10, 6], "words": ["batch", 5]}
    kinds = {"words": TensorProto.INT64}
    graph = helper.make_graph(
        nodes, "fused",
        [helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]) for name, width in (("event", 4), ("level", 1))],
        constants,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture(scope="session")
def model() -> onnx.ModelProto:
    return build()


@pytest.fixture(scope="session")
def card() -> Card:
    return cards.parse(CARD)


@pytest.fixture
def context(card: Card, tmp_path: Path) -> Callable[..., Context]:
    """``context("int8", **fields)``: a context with the numerics of that name and synthetic samples."""

    def made(activations: str = "mixed", **fields: object) -> Context:
        floats = ("fp32", "bf16") if activations == "mixed" else ("fp32",)
        return Context(card, dataset.synthetic(card), tmp_path, target="here", numerics=Numerics(activations, floats=floats), **fields)

    return made


@pytest.fixture(scope="session")
def samples(card: Card) -> list[dict[str, np.ndarray]]:
    return [batch.inputs for batch in dataset.synthetic(card, seed=9).calibration(8)]
