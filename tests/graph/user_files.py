"""ONNX files as users bring them: a fused graph of two inputs, with one thing or another about it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

KINDS = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.BFLOAT16: ml_dtypes.bfloat16,
    TensorProto.DOUBLE: float,
}


def weights(kind: int = TensorProto.FLOAT, **others: np.ndarray) -> dict[str, np.ndarray]:
    """The weights of ``nodes``, in the type ``kind``; ``others`` beside them or in their place, as they are."""
    rng = np.random.default_rng(0)
    drawn = {name: rng.normal(0, 0.3, shape) for name, shape in (("w1", (32, 32)), ("w2", (8, 16)), ("w3", (48, 4)))}
    return {name: value.astype(KINDS[kind]) for name, value in drawn.items()} | others


def nodes(out: str = "out") -> list[NodeProto]:
    """From ``a`` and ``b`` to ``out``."""
    return [
        helper.make_node("MatMul", ["a", "w1"], ["x"], name="first"),
        helper.make_node("Relu", ["x"], ["y"], name="relu"),
        helper.make_node("MatMul", ["b", "w2"], ["z"], name="second"),
        helper.make_node("Concat", ["y", "z"], ["c"], name="join", axis=1),
        helper.make_node("MatMul", ["c", "w3"], [out], name="head"),
    ]


def write(
    path: Path,
    body: Sequence[NodeProto],
    contents: Mapping[str, np.ndarray],
    *,
    kind: int = TensorProto.FLOAT,
    inputs: Mapping[str, int] | None = None,
    outputs: Mapping[str, Any] | None = None,
    domains: Sequence[str] = (),
    **options: Any,
) -> Path:
    """Write a graph; ``inputs`` and ``outputs`` as name -> width of (N, width) of the type ``kind``, or a whole value info."""
    ends = [
        [
            width if isinstance(width, onnx.ValueInfoProto) else helper.make_tensor_value_info(name, kind, ["N", width])
            for name, width in group.items()
        ]
        for group in (inputs or {"a": 32, "b": 8}, outputs or {"out": 4})
    ]
    graph = helper.make_graph(list(body), "g", *ends, [numpy_helper.from_array(value, name) for name, value in contents.items()])
    opsets = [helper.make_opsetid("", 18), *(helper.make_opsetid(domain, 1) for domain in domains)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=options.pop("functions", [])), path, **options)
    return path
