"""ONNX models that tests write down by hand."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

FLOAT = onnx.TensorProto.FLOAT


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    constants: Mapping[str, Any] | None = None,
    *,
    opset: int = 18,
    ir_version: int = 10,
) -> onnx.ModelProto:
    """A model of ``nodes``.

    Args:
        inputs, outputs: Name -> shape of a float32 tensor (None where it is unknown), or (element type, shape).
        constants: Name -> value.
    """
    ends = [
        [helper.make_tensor_value_info(name, *(facts if isinstance(facts, tuple) else (FLOAT, facts))) for name, facts in side.items()]
        for side in (inputs, outputs)
    ]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    return helper.make_model(
        helper.make_graph(nodes, "g", *ends, tensors), opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version
    )


def suppressing_detector(*between: onnx.NodeProto, boxes: str = "inner/boxes", score: float = 0.8, most: int = 100) -> onnx.ModelProto:
    """One convolution that answers for 40 x 40 places of a picture, three labels, as centre and size in pixels, and suppresses.

    Args:
        between: Nodes before the suppression.
        boxes: The tensor that is suppressed.
    """
    rng = np.random.default_rng(0)
    nms = helper.make_node("NonMaxSuppression", [boxes, "chances", "most", "iou", "least"], ["chosen"], name="nms", center_point_box=1)
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["map"], strides=[8, 8], kernel_shape=[8, 8], name="conv"),
        helper.make_node("Reshape", ["map", "flat"], ["rows"], name="flatten"),
        helper.make_node("Split", ["rows", "sizes"], ["raw", "logits"], axis=1, name="split"),
        helper.make_node("Sigmoid", ["logits"], ["chances"], name="chance"),
        helper.make_node("Sigmoid", ["raw"], ["parts"], name="place"),
        helper.make_node("Mul", ["parts", "extent"], ["sides"], name="pixels"),
        helper.make_node("Transpose", ["sides"], ["inner/boxes"], perm=[0, 2, 1], name="turn"),
        *between,
        nms,
    ]
    numbers = {"w": rng.normal(0, 0.1, (7, 3, 8, 8)), "iou": [0.45], "least": [score], "extent": 320}
    counts = {"flat": [1, 7, 1600], "sizes": [4, 3], "most": [most]}
    held = {key: np.array(value, np.float32) for key, value in numbers.items()} | {key: np.array(value) for key, value in counts.items()}
    return model(nodes, {"image": [1, 3, 320, 320]}, {"chosen": (onnx.TensorProto.INT64, [None, 3])}, held)
