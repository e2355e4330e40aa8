"""Where a graph shuts positions out: nodes that add or write -inf (or the like), up to the softmax or the maximum that reads it."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from edgemm.contracts.specs import SHUT
from edgemm.graph.branches import node_inputs

WRITES = ("Where", "Add", "Sub", "Mul", "Max", "Min", "Clip")
"""Operators that put a large number where nothing shall be looked at: masked_fill, scores + mask, (1 - mask) * -1e9."""
KEEPS = (
    *WRITES, "Expand", "Reshape", "Unsqueeze", "Squeeze", "Cast", "Transpose", "Concat", "Slice", "Identity", "Gather", "Tile", "Neg",
    "Div", "ScatterND", "ScatterElements", "QuantizeLinear", "DequantizeLinear",
)  # fmt: skip
"""Operators whose result still holds that number."""


def masking_nodes(model: onnx.ModelProto) -> set[str]:
    """Names of the nodes that make, carry or first read such numbers: a range that holds them leaves nothing for the values beside them."""
    shut = {tensor.name for tensor in model.graph.initializer if _is_shut(tensor)}
    names: set[str] = set()
    carried: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "Constant":
            shut |= {node.output[0] for a in node.attribute if a.name == "value" and _is_shut(a.t)}
            shut |= {node.output[0] for a in node.attribute if a.name == "value_float" and abs(a.f) >= -SHUT}
        elif node.op_type == "ConstantOfShape":
            carried |= {node.output[0] for a in node.attribute if a.name == "value" and _is_shut(a.t)}
        elif carried & {*node_inputs(node)} or (node.op_type in (*WRITES, "Expand") and shut & {*node_inputs(node)}):
            names.add(node.name)
            carried |= set(node.output) if node.op_type in KEEPS else set()
    return names


def _is_shut(tensor: onnx.TensorProto) -> bool:
    if tensor.data_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE) or _is_outside(tensor):
        return False
    return bool((np.abs(numpy_helper.to_array(tensor)) >= -SHUT).any())


def _is_outside(tensor: onnx.TensorProto) -> bool:
    """Whether its numbers lie in a file beside the model: weights, no mask."""
    return tensor.data_location == onnx.TensorProto.EXTERNAL
