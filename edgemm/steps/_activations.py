"""Signed activations from unsigned ones, for runtimes that take int8 with zero point 0 only."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

PAIR = ("QuantizeLinear", "DequantizeLinear")
UNSIGNED_TOP, SIGNED_TOP = 255, 127


def make_signed(model: onnx.ModelProto) -> None:
    """Give every uint8 Q/DQ pair a symmetric int8 range that covers the same values: ``scale * 255 / 127``; in place.

    Costs at most one bit on values that are never negative. TensorRT accepts uint8 with zero point 0 and clips it silently, so none may
    be left.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    pairs = {
        (node.input[1], node.input[2])
        for node in model.graph.node
        if node.op_type in PAIR and len(node.input) > 2 and constants[node.input[2]].data_type == TensorProto.UINT8
    }
    for scale_name, zero_name in sorted(pairs):
        scale, zero = constants[scale_name], constants[zero_name]
        step, lowest = numpy_helper.to_array(scale).astype(np.float64), numpy_helper.to_array(zero).astype(np.float64)
        reach = np.maximum(lowest, UNSIGNED_TOP - lowest) * step
        scale.CopyFrom(numpy_helper.from_array((reach / SIGNED_TOP).astype(np.float32), scale_name))
        zero.CopyFrom(numpy_helper.from_array(np.zeros(lowest.shape, np.int8), zero_name))
