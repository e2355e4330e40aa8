"""Weights of recurrent layers in int8: smaller on disk, computed in float.

No quantizer touches GRU and LSTM, yet in small audio and text branches they hold most of the weights. OpenVINO and TensorRT turn the
weights back when they load the graph, at no cost in speed; ONNX Runtime would do so at every call.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import helper, numpy_helper

RECURRENT = ("GRU", "LSTM", "RNN")
WEIGHTS = (1, 2)  # inputs W (directions, gates * hidden, inputs) and R (directions, gates * hidden, hidden)
ROWS_AXIS = 1  # one scale for each row of each gate, shared by both directions: DequantizeLinear knows one axis
TOP = 127


def shrink(model: onnx.ModelProto, untouched: Collection[str]) -> None:
    """Store the weights of recurrent nodes, except those named in ``untouched``, as int8 with a DequantizeLinear; in place."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = list(model.graph.node)
    readers = [name for node in nodes for name in node.input]
    made: list[onnx.NodeProto] = []
    for node in nodes:
        if node.op_type not in RECURRENT or node.name in untouched:
            continue
        for place in WEIGHTS:
            tensor = constants.get(node.input[place])
            if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT or readers.count(tensor.name) > 1:
                continue
            made.append(_stored(model, node, place, tensor))
    if made:
        rest = list(model.graph.node)
        del model.graph.node[:]
        model.graph.node.extend([*made, *rest])


def _stored(model: onnx.ModelProto, node: onnx.NodeProto, place: int, tensor: onnx.TensorProto) -> onnx.NodeProto:
    """The DequantizeLinear that gives the node its weight; the tensor itself becomes int8."""
    weight, name = numpy_helper.to_array(tensor), tensor.name
    scale = np.maximum(np.abs(weight).max(axis=(0, 2)) / TOP, np.finfo(np.float32).tiny).astype(np.float32)
    content = np.clip(np.round(weight / scale[None, :, None]), -TOP, TOP).astype(np.int8)
    tensor.CopyFrom(numpy_helper.from_array(content, name))
    model.graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(len(scale), np.int8), f"{name}_zero_point"))
    node.input[place] = f"{name}_float"
    return helper.make_node(
        "DequantizeLinear", [name, f"{name}_scale", f"{name}_zero_point"], [f"{name}_float"],
        name=f"DequantizeLinear_{name}", axis=ROWS_AXIS,
    )  # fmt: skip
