"""Whether TensorRT takes a Q/DQ graph and computes what it says: every rule, with the node that breaks it and what to do.

Some graphs TensorRT refuses; some it takes and computes wrongly (uint8 with zero point 0: everything above 127 steps is clipped); some it
takes and runs slower than float. The first two are faults, the last are remarks (``Fault.slow``).

Source of the rules: TensorRT's ONNX parser and builder as tried out with TensorRT-RTX 1.7 (``tests/box/targets/test_tensorrt_build.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgemm.contracts.card import Card
from edgemm.errors import Collector, EdgemmError, QuantizeError
from edgemm.graph import placement
from edgemm.graph.branches import find_branches
from edgemm.graph.packed_weights import is_packed
from edgemm.graph.qdq_pairs import DEQUANTIZE, PAIR, PRODUCTS, QUANTIZE, Wiring, attribute, output_axis

REQUANTIZE = "quantize the float model again with `edgemm quantize -r tensorrt-int8`."
FOREIGN = (
    "QLinearConv", "QLinearMatMul", "QLinearAdd", "QGemm", "MatMulInteger", "ConvInteger", "DynamicQuantizeLinear", "QAttention",
    "DynamicQuantizeLSTM",
)  # fmt: skip
"""Operators that compute in integers themselves; TensorRT's parser knows none of them."""
FLOAT_ONLY = ("LayerNormalization", "Softmax", "InstanceNormalization", "GroupNormalization", "RMSNormalization", "LogSoftmax")
LAST_OPSET = 22  # from 23 on exporters write Attention, which has no FP32 kernel (TensorRT-RTX 1.7)


@dataclass(frozen=True)
class Fault:
    """One broken rule.

    Attributes:
        rule: Its short name.
        node, branch: Where; ``branch`` is "" where the graph's branches are not known.
        what, fix: In words.
        slow: Taken and computed rightly, but slower than it need be.
    """

    rule: str
    node: str
    what: str
    fix: str = REQUANTIZE
    branch: str = ""
    slow: bool = False

    def error(self) -> QuantizeError:
        where = f"node '{self.node}'" + (f" of branch '{self.branch}'" if self.branch else "")
        return QuantizeError(f"TensorRT: {where} {self.what}", why=WHY[self.rule], fix=self.fix)


WHY = {
    "unsigned": "TensorRT has signed INT8 only. It takes uint8 with zero point 0 for int8 and clips everything above 127 steps, silently.",
    "asymmetric": "TensorRT's INT8 is symmetric: its parser refuses zero points other than 0.",
    "zero point": "parsers up to TensorRT 8.6 want it, newer ones take 0; written out, all agree.",
    "axis": "the default differs between parsers (0 up to TensorRT 10.1, 1 later).",
    "channel": "a scale a channel fuses only along the output channels of weights; elsewhere TensorRT converts before it computes.",
    "scale": "a step of 0, below 0 or not finite stands for no value.",
    "bias": "TensorRT adds biases in float; its parser refuses a DequantizeLinear of int32.",
    "type": "TensorRT's quantizers are int8 here.",
    "constant": "TensorRT refuses to build integers that something else touched before the DequantizeLinear.",
    "operator": "TensorRT reads INT8 as Q/DQ pairs only.",
    "mixed": "a strongly typed network wants one float type at all inputs of a node.",
    "attention": "from opset 23 on exporters write Attention, for which TensorRT has no FP32 kernel.",
    "range": "LayerNorm, Softmax and the products inside attention lose their meaning in 8 bits, and have no INT8 kernel.",
    "residual": "the product and the sum become one kernel that reads the skip in INT8; a pair on the product's side splits it.",
    "concat": "joining tensors of different scales requantizes all but one of them.",
    "small": "an INT8 kernel gains nothing there: the conversions around it cost more.",
    "alone": "no INT8 kernel takes it in: it is two layers of work for nothing.",
}


def check(model: onnx.ModelProto, card: Card | None = None) -> list[Fault]:
    """Every rule that ``model`` breaks, faults before remarks, in the order of the graph."""
    wiring = Wiring(model)
    shapes = placement.sizes(model)
    rules: list[Callable[[onnx.NodeProto], Iterator[Fault]]] = [
        lambda node: _numbers(node, wiring),
        lambda node: _operators(node),
        lambda node: _types(node, wiring),
        lambda node: _place(node, wiring, shapes),
    ]
    faults = [fault for node in model.graph.node for rule in rules for fault in rule(node)]
    owner = _owners(model, card) if faults else {}
    reported = [Fault(f.rule, f.node, f.what, f.fix, owner.get(f.node, ""), f.slow) for f in faults]
    return sorted(reported, key=lambda fault: fault.slow)


def require(model: onnx.ModelProto, card: Card | None = None, *, fast: bool = False) -> list[Fault]:
    """Raise unless TensorRT computes ``model`` rightly.

    Args:
        fast: Remarks are faults too: for graphs that edgemm itself made.

    Returns:
        The remarks.

    Raises:
        QuantizeError: One block for each broken rule, with its first node, and how many more there are.
    """
    all_faults = check(model, card)
    mistakes = Collector()
    rules: dict[str, list[Fault]] = {}
    for fault in all_faults:
        if fast or not fault.slow:
            rules.setdefault(fault.rule, []).append(fault)
    for faults in rules.values():
        more = f" ({len(faults) - 1} more like it)" if len(faults) > 1 else ""
        error = faults[0].error()
        mistakes.add(QuantizeError(error.what.rstrip(".") + more + ".", why=error.why, fix=error.fix))
    mistakes.raise_if_any()
    return [fault for fault in all_faults if fault.slow]


def _owners(model: onnx.ModelProto, card: Card | None) -> Mapping[str, str]:
    names = [node.name for node in model.graph.node]
    if len(set(names)) < len(names):
        return {}
    try:
        return find_branches(model, card).of_node
    except EdgemmError:  # a graph from elsewhere that has no branches
        return {}


def _numbers(node: onnx.NodeProto, wiring: Wiring) -> Iterator[Fault]:
    """Zero point, scale, axis and stored type of a quantizer."""
    if node.op_type not in PAIR:
        return
    scale = wiring.constant(node.input[1])
    if scale is None:
        yield Fault("scale", node.name, "has a scale that is computed while running.")
        return
    if not np.isfinite(scale).all() or not (scale > 0).all():
        yield Fault("scale", node.name, f"has the scale {float(np.min(scale)):g}.")
    if attribute(node, "block_size", 0):  # weights alone, in blocks
        return
    yield from _zero(node, wiring)
    yield from _channels(node, wiring, scale)
    if node.op_type == DEQUANTIZE and wiring.made_by(node.input[0]) not in (QUANTIZE, "Constant", "") and not _is_input(node, wiring):
        by = wiring.maker[node.input[0]]
        yield Fault("constant", node.name, f"reads integers that '{by.name}' ({by.op_type}) made.", "put it directly after the constant.")


def _is_input(node: onnx.NodeProto, wiring: Wiring) -> bool:
    return node.input[0] not in wiring.maker and node.input[0] not in wiring.constants


def _zero(node: onnx.NodeProto, wiring: Wiring) -> Iterator[Fault]:
    stored = wiring.constants[node.input[0]].data_type if node.input[0] in wiring.constants else None
    if node.op_type == DEQUANTIZE and stored == TensorProto.INT32:
        yield Fault("bias", node.name, "is a bias stored as int32.", "turn QuantizeBias off in the quantizer; " + REQUANTIZE)
        return
    if len(node.input) < 3 or not node.input[2]:
        if node.op_type == QUANTIZE:
            yield Fault("unsigned", node.name, "has no zero point, so it makes uint8.")
        else:
            yield Fault("zero point", node.name, "has no zero point.")
        return
    zero = wiring.constant(node.input[2])
    if zero is None:
        yield Fault("zero point", node.name, "has a zero point that is computed while running.")
        return
    kind = helper.np_dtype_to_tensor_dtype(zero.dtype)
    if kind == TensorProto.UINT8:
        yield Fault("unsigned", node.name, f"is uint8 with zero point {int(zero.flat[0])}.")
    elif kind != TensorProto.INT8 or stored not in (None, TensorProto.INT8, TensorProto.FLOAT, TensorProto.FLOAT16):
        yield Fault("type", node.name, f"is {zero.dtype}.")
    elif zero.any():
        yield Fault("asymmetric", node.name, f"has the zero point {int(zero.flat[np.flatnonzero(zero)[0]])}.")


def _channels(node: onnx.NodeProto, wiring: Wiring, scale: np.ndarray) -> Iterator[Fault]:
    if scale.size == 1:
        return
    axis = next((a.i for a in node.attribute if a.name == "axis"), None)
    if axis is None:
        yield Fault("axis", node.name, f"has {scale.size} scales and no axis.")
        return
    if node.op_type != DEQUANTIZE:
        return
    if not wiring.is_weight(node):
        yield Fault("channel", node.name, "has a scale a channel on a tensor that changes.")
        return
    weight = wiring.constants.get(node.input[0])
    for user, slot in wiring.users.get(node.output[0], ()) if weight is not None else ():
        rank = len(weight.dims) if weight is not None else 0
        if user.op_type in PRODUCTS and slot == 1 and axis % max(1, rank) != output_axis(user, rank):
            yield Fault(
                "channel", node.name, f"has its scales along axis {axis}; '{user.name}' makes its channels along another.", slow=True
            )


def _operators(node: onnx.NodeProto) -> Iterator[Fault]:
    if node.op_type in FOREIGN:
        yield Fault("operator", node.name, f"is a {node.op_type}.", "export the model with Q/DQ pairs instead; " + REQUANTIZE)
    elif is_packed(node):
        yield Fault("operator", node.name, f"is a {node.op_type}.", "quantize the float model for tensorrt: method: weights writes blocks.")
    elif node.op_type == "Attention":
        yield Fault("attention", node.name, "is an Attention.", f"export with an opset up to {LAST_OPSET}: edgemm export --opset 18.")


def _types(node: onnx.NodeProto, wiring: Wiring) -> Iterator[Fault]:
    """One float type at all inputs that quantizers feed."""
    if node.op_type not in (*PRODUCTS, "Add", "Concat"):
        return
    kinds = set()
    for name in node.input:
        scale = wiring.constant(wiring.maker[name].input[1]) if wiring.made_by(name) == DEQUANTIZE else None
        kinds |= {scale.dtype.name} if scale is not None else set()
    if len(kinds) > 1:
        yield Fault("mixed", node.name, f"reads dequantized {' and '.join(sorted(kinds))}.", "give all its scales one float type.")


def _place(node: onnx.NodeProto, wiring: Wiring, shapes: Mapping[str, tuple[int | None, ...]]) -> Iterator[Fault]:
    """What a dequantized activation is read by."""
    read = [slot for slot, name in enumerate(node.input) if wiring.made_by(name) == DEQUANTIZE]
    read = [slot for slot in read if not wiring.is_weight(wiring.maker[node.input[slot]])]
    if not read or node.op_type in PAIR:
        return
    if node.op_type in FLOAT_ONLY or (node.op_type in PRODUCTS and not wiring.has_integer_weights(node)):
        inside = "reads a quantized activation" + ("" if node.op_type in FLOAT_ONLY else ", and its other factor is no INT8 weight")
        yield Fault("range", node.name, f"({node.op_type}) {inside}.", slow=True)
    elif node.op_type in PRODUCTS:
        why = _unfit(node, wiring, shapes)
        if why:
            yield Fault("small", node.name, f"({node.op_type}) is quantized though {why}.", slow=True)
    elif node.op_type == "Add" and wiring.skip_of(node) not in (None, *read):
        yield Fault("residual", node.name, "reads the product's side quantized.", slow=True)
    elif node.op_type == "Add" and wiring.skip_of(node) is not None and len(read) > 1:
        yield Fault("residual", node.name, "reads both sides quantized.", slow=True)
    elif node.op_type == "Concat":
        yield from _concat(node, wiring, read)
    elif not any(placement.wanted(wiring, node, slot) for slot in read):
        yield Fault("alone", node.name, f"({node.op_type}) reads a quantized activation.", slow=True)


def _unfit(node: onnx.NodeProto, wiring: Wiring, shapes: Mapping[str, tuple[int | None, ...]]) -> str:
    stored = wiring.maker[node.input[1]].input[0]
    weights = shapes.get(stored) or shapes.get(node.input[1], ())
    if node.op_type in ("MatMul", "Gemm"):
        return placement.unfit_matrix(node, weights, shapes.get(node.input[0], ()))
    return placement.unfit_kernel(node, weights)


def _concat(node: onnx.NodeProto, wiring: Wiring, read: list[int]) -> Iterator[Fault]:
    scales = [wiring.constant(wiring.maker[node.input[slot]].input[1]) for slot in read]
    values = {float(scale.flat[0]) for scale in scales if scale is not None}
    if len(values) > 1 or len(read) < len(node.input):
        yield Fault("concat", node.name, f"joins tensors of {max(2, len(values))} different scales.", slow=True)
