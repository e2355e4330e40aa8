"""A graph whose body computes in float16, by Cast nodes: what a strongly typed TensorRT network needs, where no flag chooses types.

What loses its meaning in half precision stays in float32: front-ends, norms, Softmax, means and sums, exponents. Inputs and outputs keep
their types. Source of the choice: overflow after attention and in means is the commonest fault of FP16 engines (LayerNorm squares, a mean
over thousands of values); 65504 is the largest half. Recurrent layers go to half with the rest: their gates are bounded (GRU and LSTM cost
under 1 dB on the tests' graphs), and TensorRT-RTX 1.7 fails to build where a Cast stands around the Transpose before one.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgemm.errors import QuantizeError
from edgemm.graph import files
from edgemm.graph.branches import FRONTEND, drop_unread
from edgemm.graph.qdq_pairs import DEQUANTIZE, PAIR, Wiring, attribute

OPSET = 19
"""From here on quantizers take float16; the operators that changed in it mean the same with their old attributes."""
FULL = frozenset(
    {"LayerNormalization", "InstanceNormalization", "GroupNormalization", "BatchNormalization", "LpNormalization", "Softmax", "LogSoftmax",
     "ReduceMean", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceSumSquare", "ReduceProd", "GlobalAveragePool",
     "AveragePool", "CumSum", "Pow", "Exp", "Log", "Sqrt", "Reciprocal", "Loop", "If", "Scan", "Range", "Resize",
     "Div", "RandomNormal", "TopK", "NonZero"}
)  # fmt: skip
"""Operators that stay in float32."""
LARGEST, SMALLEST = 65504.0, 2.0**-14
"""Largest half, and the smallest one with all its bits."""
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of ``model`` with a float16 body.

    Raises:
        QuantizeError: Types of the graph cannot be followed.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _raise_opset(copy)
    return _Halving(copy).run()


def _raise_opset(model: onnx.ModelProto) -> None:
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = max(entry.version, OPSET)


class _Halving:
    """One rewriting: which tensors are float, which nodes are full, which casts were made."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.graph = model, model.graph
        self.wiring = Wiring(model)
        self.floats = _float_tensors(model)
        self.full = {node.name for node in model.graph.node if self._is_full(node)}
        self._spread_full()
        self.half: set[str] = set()  # tensors that are float16 now
        self.made: dict[tuple[str, int], str] = {}
        self.nodes: list[onnx.NodeProto] = []

    def run(self) -> onnx.ModelProto:
        ends = {value.name: f"{value.name}_half" for value in self.graph.output}
        for node in list(self.graph.node):
            if node.name in self.full or not self._touches_floats(node):
                self._feed(node, FLOAT)
                self.nodes.append(node)
                continue
            self._feed(node, HALF)
            self._retype(node)
            self.nodes.append(node)
            self._mark(node, ends)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        del self.graph.value_info[:]
        drop_unread(self.model)
        return self.model

    def _is_full(self, node: onnx.NodeProto) -> bool:
        if node.name.startswith(FRONTEND) or node.op_type in FULL or (node.domain not in ("", "ai.onnx")):
            return True
        if any(attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for attribute in node.attribute):
            return True
        return any(self._is_lost(name) for name in node.input)

    def _is_lost(self, name: str) -> bool:
        """Whether a constant loses its meaning: a value beyond float16 (but a mask's -inf), or a guard such as 1e-12 that would be 0."""
        if name not in self.floats:
            return False
        content = self.wiring.constant(name)
        if content is None:
            return False
        size = np.abs(content[np.isfinite(content)])
        return bool((size > LARGEST).any()) or bool(
            content.size == 1 and ((size > 0) & (size < SMALLEST)).any() and not self._is_step(name)
        )

    def _is_step(self, name: str) -> bool:
        """Whether a constant is a quantizer's scale: weights are rounded anew for theirs, activations are looked at on their own."""
        return all(node.op_type in PAIR for node, _ in self.wiring.users.get(name, ()))

    def _spread_full(self) -> None:
        """A pair whose step float16 cannot hold stays in float32, with the product that reads it."""
        for quantize, dequantize in self.wiring.activations():
            scale = self.wiring.constant(quantize.input[1])
            if quantize.name in self.full or dequantize.name in self.full or scale is None or float(scale.max()) < SMALLEST:
                readers = [node.name for node, _ in self.wiring.users.get(dequantize.output[0], ())]
                self.full |= {quantize.name, dequantize.name, *readers}
        for node in self.graph.node:
            if node.name in self.full and node.op_type not in PAIR:
                makers = [self.wiring.maker[name] for name in node.input if self.wiring.made_by(name) == DEQUANTIZE]
                self.full |= {maker.name for maker in makers if self.wiring.is_weight(maker)}

    def _touches_floats(self, node: onnx.NodeProto) -> bool:
        return any(name in self.floats for name in [*node.input, *node.output])

    def _feed(self, node: onnx.NodeProto, kind: int) -> None:
        """Let ``node`` read its float inputs as ``kind``."""
        for slot, name in enumerate(node.input):
            if name not in self.floats or (name in self.half) == (kind == HALF) or _keeps_float(node, slot):
                continue
            node.input[slot] = self._as(name, kind, node)

    def _as(self, name: str, kind: int, node: onnx.NodeProto) -> str:
        if (name, kind) in self.made:
            return self.made[name, kind]
        converted = f"{name}_{'half' if kind == HALF else 'full'}_of"
        if name in self.wiring.constants:
            self._halve_constant(name, converted)
        else:
            self.nodes.append(helper.make_node("Cast", [name], [converted], f"half/{converted}", to=kind))
        self.made[name, kind] = converted
        return converted

    def _halve_constant(self, name: str, half_name: str) -> None:
        content = numpy_helper.to_array(self.wiring.constants[name])
        self.graph.initializer.append(numpy_helper.from_array(content.astype(np.float16), half_name))

    def _retype(self, node: onnx.NodeProto) -> None:
        """Attributes that name a float type, and constants that float16 would round to another step."""
        for entry in node.attribute:
            if node.op_type == "Cast" and entry.name == "to" and entry.i == FLOAT:
                entry.i = HALF
            elif node.op_type in ("Constant", "ConstantOfShape") and entry.name == "value" and entry.t.data_type == FLOAT:
                entry.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(entry.t).astype(np.float16), entry.t.name))
        if node.op_type == DEQUANTIZE and self.wiring.is_weight(node) and not attribute(node, "block_size", 0):
            self._round_again(node)  # in blocks a step's rounding is far below what the few bits cost

    def _round_again(self, node: onnx.NodeProto) -> None:
        """Weights in steps that float16 holds exactly: else the step's rounding would shift all weights of its channel."""
        stored = self.wiring.constant(node.input[0])
        scale = next((numpy_helper.to_array(t) for t in reversed(self.graph.initializer) if t.name == node.input[1]), None)
        old = self.wiring.constant(node.input[1].removesuffix("_half_of"))
        if stored is None or scale is None or old is None:
            return
        step = np.maximum(scale.astype(np.float32), SMALLEST)
        while (short := step.astype(np.float16).astype(np.float32) < old).any():  # rounded down: the largest weight would be clipped
            step = np.where(short, np.nextafter(step.astype(np.float16), np.float16(np.inf)).astype(np.float32), step)
        shape = [1] * stored.ndim
        if step.size > 1:
            shape[attribute(node, "axis", 1) % stored.ndim] = step.size
        ratio = (old.astype(np.float64) / step).reshape(shape) if step.size > 1 else float(old.flat[0] / step.flat[0])
        integers = np.clip(np.round(stored * ratio), -127, 127).astype(np.int8)
        for slot, content in ((0, integers), (1, step.astype(np.float16))):
            name = f"{node.output[0]}_{('int8', 'scale')[slot]}_half"
            self.graph.initializer.append(numpy_helper.from_array(content, name))
            node.input[slot] = name

    def _mark(self, node: onnx.NodeProto, ends: dict[str, str]) -> None:
        """Note which outputs are float16 now; a graph output keeps its name and type behind a Cast."""
        for index, name in enumerate(node.output):
            if name not in self.floats:
                continue
            if name not in ends:
                self.half.add(name)
                continue
            node.output[index] = ends[name]
            self.half.add(ends[name])
            self.floats.add(ends[name])
            self.nodes.append(helper.make_node("Cast", [ends[name]], [name], f"half/{name}", to=FLOAT))


def _keeps_float(node: onnx.NodeProto, slot: int) -> bool:
    """Inputs that are float32 by definition whatever the type of the node."""
    return node.op_type == "Resize" and slot in (1, 2)


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    """Names of all float32 tensors."""
    frame = files.skeleton(model)
    del frame.graph.value_info[:]
    try:
        frame = onnx.shape_inference.infer_shapes(frame, data_prop=False)
    except Exception as err:  # its errors have no common class
        raise QuantizeError("types in the graph cannot be followed.", why=str(err)[:300], fix="keep the body in f32.") from err
    kinds = {value.name: value.type.tensor_type.elem_type for value in [*frame.graph.input, *frame.graph.value_info, *frame.graph.output]}
    kinds |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    unknown = [name for node in model.graph.node for name in node.output if name and name not in kinds]
    if unknown:
        raise QuantizeError(
            f"the type of tensor '{unknown[0]}' is not known.", why="ONNX's inference cannot follow the graph.", fix="keep the body in f32."
        )
    return {name for name, kind in kinds.items() if kind == FLOAT}
