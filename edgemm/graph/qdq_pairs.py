"""Quantizers in an ONNX graph: which node feeds which, where a pair stands, what a DequantizeLinear reads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
PAIR = (QUANTIZE, DEQUANTIZE)
PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
"""Operators that multiply by weights and have INT8 kernels in TensorRT."""
PASSING = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "MaxPool", "Identity")
"""Operators that a quantizer may be moved across: they only move values, or take the largest."""
MOVING = (*PASSING, "Split", "Slice", "Gather", "Resize", "Expand", "Tile", "Pad", "DepthToSpace", "SpaceToDepth", "Cast")
"""Operators whose result holds what they read at their first input, in another order or number."""


class Wiring:
    """Who makes and who reads each tensor of the top graph. Taken once; rewire through its methods, or make a new one."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.maker = {name: node for node in model.graph.node for name in node.output if name}
        self.users: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        for node in model.graph.node:
            for slot, name in enumerate(node.input):
                self.users.setdefault(name, []).append((node, slot))
        self.outputs = {value.name for value in model.graph.output}

    def made_by(self, name: str) -> str:
        """Operator that makes a tensor; "" for inputs and constants."""
        return self.maker[name].op_type if name in self.maker else ""

    def constant(self, name: str) -> np.ndarray | None:
        """A tensor's constant content: an initializer, or a Constant node's value; else None."""
        if name in self.constants:
            return numpy_helper.to_array(self.constants[name])
        node = self.maker.get(name)
        if node is not None and node.op_type == "Constant":
            return next((numpy_helper.to_array(a.t) for a in node.attribute if a.name == "value"), None)
        return None

    def is_constant(self, name: str) -> bool:
        return name in self.constants or self.made_by(name) == "Constant"

    def is_weight(self, node: onnx.NodeProto) -> bool:
        """Whether a DequantizeLinear stands after a constant, stored in integers or quantized on the way."""
        source = node.input[0]
        if self.made_by(source) == QUANTIZE:
            source = self.maker[source].input[0]
        return node.op_type == DEQUANTIZE and self.is_constant(source)

    def has_integer_weights(self, node: onnx.NodeProto) -> bool:
        """Whether a product reads its weights from a DequantizeLinear."""
        weights = node.input[1] if node.op_type in PRODUCTS else ""
        return self.made_by(weights) == DEQUANTIZE and self.is_weight(self.maker[weights])

    def activations(self) -> Iterator[tuple[onnx.NodeProto, onnx.NodeProto]]:
        """Every pair (QuantizeLinear, DequantizeLinear) on a tensor that changes."""
        for node in list(self.graph.node):
            if node.op_type == DEQUANTIZE and not self.is_weight(node) and self.made_by(node.input[0]) == QUANTIZE:
                yield self.maker[node.input[0]], node

    def rewire(self, node: onnx.NodeProto, place: int, name: str) -> None:
        """Let ``node`` read ``name`` at ``place``."""
        self.users[node.input[place]].remove((node, place))
        node.input[place] = name
        self.users.setdefault(name, []).append((node, place))

    def skip_of(self, node: onnx.NodeProto) -> int | None:
        """Which input of a residual Add is the skip: the one that is not straight from a product with integer weights; None elsewhere.

        The product and the Add become one kernel that reads the skip in INT8; a quantizer between them would split it.
        """
        if node.op_type != "Add" or any(self.is_constant(name) for name in node.input):
            return None
        straight = [self._is_sum_fused(name) for name in node.input]
        if not any(straight):
            return None
        return 1 - straight.index(True)

    def _is_sum_fused(self, name: str) -> bool:
        maker = self.behind(name)
        alone = len(self.users.get(maker.output[0], ())) == 1 if maker is not None else False
        return maker is not None and maker.op_type in ("Conv", "ConvTranspose") and alone and self.has_integer_weights(maker)

    def behind(self, name: str) -> onnx.NodeProto | None:
        """The node that makes a tensor, quantizers looked through."""
        maker = self.maker.get(name)
        while maker is not None and maker.op_type in PAIR:
            maker = self.maker.get(maker.input[0])
        return maker


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """A node's whole-number attribute, or ``default`` where it has none of that name."""
    return next((a.i for a in node.attribute if a.name == name), default)


def output_axis(node: onnx.NodeProto, rank: int) -> int:
    """Along which axis of its weights (of ``rank``) a product makes its output channels.

    Gemm's weights are (K, N), or (N, K) with ``transB``; MatMul's end in N; Conv's begin with it; ConvTranspose's are (in, out, ...).
    """
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": rank - 1}.get(node.op_type, 0)
