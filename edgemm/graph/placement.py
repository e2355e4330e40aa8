"""Where quantizers stand so that a runtime fuses them.

For TensorRT: at the inputs of products that have INT8 kernels, and at a residual Add's skip. A pair that no kernel takes in is work of its
own (a reformat or a requantize layer), and often slower than FP16 throughout. The limits on sizes are those that TensorRT Model Optimizer
applies; they are written here from the rules, not from its source.

For OpenVINO: not before elementwise arithmetic on vectors, as in a gated fusion. A product of two dozen numbers costs the same in any
type, and a quantizer before it is one more rounding. In OpenVINO 2026.4 it also stands in the way of fusing, and kills the process where
it follows two Linears and a Tanh. A gated fusion of 0.05 ms ran 1.2x as fast without.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgemm.graph import files
from edgemm.graph.branches import drop_unread
from edgemm.graph.qdq_pairs import PAIR, PASSING, PRODUCTS, QUANTIZE, Wiring, attribute
from edgemm.graph.symmetric_qdq import unfold

LEAST = 16
"""Channels below which an INT8 kernel gains nothing: tensor cores take 16 at a time."""
ROUND = 8  # a convolution may have fewer on one side when the other fills groups of so many
PICTURE = 4  # input channels of a first layer, at most
SERVED_BATCH = 1  # rows that a box serves at a time; a linear layer on one row is a product of a matrix and a vector


ELEMENTWISE = ("Add", "Div", "Mul", "Sub")
VECTOR = 2  # axes: batch and features. Maps and sequences keep their quantizers: in int8 they are a quarter to move


def sizes(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    """Tensor -> its shape, open axes None except the batch, which is ``SERVED_BATCH``."""
    shapes: dict[str, tuple[int | None, ...]] = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    copy = files.skeleton(model)
    for value in copy.graph.input:
        shape = value.type.tensor_type.shape.dim
        if shape and not shape[0].HasField("dim_value"):
            shape[0].dim_value = SERVED_BATCH
    try:
        copy = onnx.shape_inference.infer_shapes(copy, data_prop=True)
    except Exception:  # its errors have no common class; a size that is not known keeps a product in INT8
        return shapes
    for value in [*copy.graph.input, *copy.graph.value_info, *copy.graph.output]:
        shape = value.type.tensor_type.shape.dim
        shapes[value.name] = tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in shape)
    return shapes


def unfit(model: onnx.ModelProto) -> dict[str, str]:
    """Node -> why it stays in float, for every node that gains nothing from INT8 in TensorRT or loses its meaning there."""
    wiring, shapes = Wiring(model), sizes(model)
    return {node.name: why for node in model.graph.node if (why := _why_not(node, wiring, shapes))}


def _why_not(node: onnx.NodeProto, wiring: Wiring, shapes: dict[str, tuple[int | None, ...]]) -> str:
    if node.op_type == "Add":  # of a residual one the skip may be quantized
        return ""
    if node.op_type == "Gather":  # a table in INT8 is a quarter of the size
        is_table = len(shapes.get(node.input[0], ())) == 2 and wiring.is_constant(node.input[0])
        return "" if is_table else "moves values"
    if node.op_type not in PRODUCTS:
        return "no INT8 kernel that gains"
    if not _is_weight(node.input[1], wiring):
        return "a product of two activations, as in attention"
    weights = shapes.get(node.input[1], ())
    if node.op_type in ("MatMul", "Gemm"):
        return unfit_matrix(node, weights, shapes.get(node.input[0], ()))
    return unfit_kernel(node, weights)


def _is_weight(name: str, wiring: Wiring) -> bool:
    if wiring.made_by(name) == "DequantizeLinear":
        return wiring.is_weight(wiring.maker[name])
    if wiring.made_by(name) in ("Transpose", "Reshape", "Cast"):
        return _is_weight(wiring.maker[name].input[0], wiring)
    return wiring.is_constant(name)


def unfit_matrix(node: onnx.NodeProto, weights: tuple[int | None, ...], rows: tuple[int | None, ...]) -> str:
    """Why a linear layer stays in float; "" where it need not."""
    if len(weights) != 2:
        return "" if not weights else "weights of more than two axes"
    k, n = reversed(weights) if node.op_type == "Gemm" and attribute(node, "transB", 0) else weights
    if k is not None and n is not None and min(k, n) < LEAST:
        return f"tiny: {k} x {n} weights, below {LEAST}"
    leading = rows[:-1]
    if leading and None not in leading and int(np.prod([size for size in leading if size is not None])) == 1:
        return "one row at a time: bound by memory, not by arithmetic"
    return ""


def unfit_kernel(node: onnx.NodeProto, weights: tuple[int | None, ...]) -> str:
    """Why a convolution stays in float; "" where it need not."""
    dims = [size for size in weights if size is not None]
    if len(dims) < 3 or len(dims) != len(weights):
        return ""
    groups, kernel = attribute(node, "group", 1), dims[2:]
    first, second = dims[0], dims[1]
    produced, read = (first, second * groups) if node.op_type == "Conv" else (second * groups, first)
    if groups > 1:
        fits = produced % ROUND == 0 and min(kernel) >= 3
        return "" if fits else f"grouped: {produced} channels, kernel {kernel}"
    if min(produced, read) >= LEAST:
        return ""
    even = produced % ROUND == 0 or read % ROUND == 0
    fits = even and (read <= PICTURE or max(produced, read) >= LEAST) and len(set(kernel)) == 1
    return "" if fits else f"tiny: {read} to {produced} channels, below {LEAST}"


def settle(model: onnx.ModelProto) -> None:
    """Take away every pair that no INT8 kernel takes in, and put those before a Concat behind it, with one scale; in place.

    Products that gain nothing from INT8 lose their integer weights first (training with quantization does not ask about sizes).
    Weights whose product reads float activations become floats again: TensorRT would compute them in float, after a conversion.
    """
    small, wiring = unfit(model), Wiring(model)
    products = [node for node in model.graph.node if node.name in small and wiring.has_integer_weights(node)]
    unfold(model, {wiring.maker[node.input[1]].name for node in products})
    _behind_concats(model)
    wiring = Wiring(model)
    for quantize, dequantize in wiring.activations():
        for node, slot in list(wiring.users.get(dequantize.output[0], ())):
            if not wanted(wiring, node, slot):
                wiring.rewire(node, slot, quantize.input[0])
    _restore_outputs(model)
    drop_dead_pairs(model)
    wiring = Wiring(model)
    unfold(model, {
        wiring.maker[node.input[1]].name for node in model.graph.node
        if wiring.has_integer_weights(node) and wiring.made_by(node.input[0]) != "DequantizeLinear" and not _passes(wiring, node.input[0])
    })  # fmt: skip
    drop_dead_pairs(model)
    drop_unread(model)


def wanted(wiring: Wiring, node: onnx.NodeProto, place: int) -> bool:
    """Whether a quantized tensor is taken in by an INT8 kernel when ``node`` reads it at ``place``."""
    if node.op_type in PRODUCTS:
        return place == 0 and wiring.has_integer_weights(node)
    if node.op_type == "Add":
        return wiring.skip_of(node) == place
    if node.op_type in PASSING and place == 0:
        return any(wanted(wiring, *use) for use in wiring.users.get(node.output[0], ()))
    return False


def _passes(wiring: Wiring, name: str) -> bool:
    """Whether a tensor is a dequantized one, looked at through operators that only move values."""
    maker = wiring.maker.get(name)
    while maker is not None and maker.op_type in PASSING:
        maker = wiring.maker.get(maker.input[0])
    return maker is not None and maker.op_type == "DequantizeLinear"


def _behind_concats(model: onnx.ModelProto) -> None:
    """Pairs on a Concat's inputs become one behind it, if an INT8 kernel reads that; its scale holds the widest of them."""
    wiring = Wiring(model)
    for concat in [node for node in model.graph.node if node.op_type == "Concat"]:
        pairs = [wiring.maker[name] for name in concat.input if wiring.made_by(name) == "DequantizeLinear"]
        pairs = [node for node in pairs if not wiring.is_weight(node) and wiring.made_by(node.input[0]) == QUANTIZE]
        if not pairs:
            continue
        scales = [wiring.constant(node.input[1]) for node in pairs]
        for slot, name in enumerate(concat.input):
            if name in {node.output[0] for node in pairs}:
                wiring.rewire(concat, slot, wiring.maker[wiring.maker[name].input[0]].input[0])
        readers = [use for use in wiring.users.get(concat.output[0], ()) if wanted(wiring, *use)]
        if readers and len(pairs) == len(concat.input) and all(scale is not None for scale in scales):
            _add_pair(wiring, concat, max(float(np.max(scale)) for scale in scales if scale is not None), readers)


def _add_pair(wiring: Wiring, node: onnx.NodeProto, scale: float, readers: Iterable[tuple[onnx.NodeProto, int]]) -> None:
    name = node.output[0]
    constants = [
        numpy_helper.from_array(np.array(scale, np.float32), f"{name}_scale"),
        numpy_helper.from_array(np.array(0, np.int8), f"{name}_zero"),
    ]
    wiring.graph.initializer.extend(constants)
    parts = [constants[0].name, constants[1].name]
    pair = [
        helper.make_node("QuantizeLinear", [name, *parts], [f"{name}_q"], f"{node.name or name}/quantize"),
        helper.make_node("DequantizeLinear", [f"{name}_q", *parts], [f"{name}_dq"], f"{node.name or name}/dequantize"),
    ]
    position = list(wiring.graph.node).index(node) + 1
    for offset, pair_node in enumerate(pair):
        wiring.graph.node.insert(position + offset, pair_node)
    for reader, slot in readers:
        wiring.rewire(reader, slot, f"{name}_dq")


def _restore_outputs(model: onnx.ModelProto) -> None:
    """A graph output that is quantized last is the float that was quantized, under the output's name."""
    wiring = Wiring(model)
    for name in wiring.outputs:
        dequantize = wiring.maker.get(name)
        if dequantize is None or dequantize.op_type != "DequantizeLinear" or wiring.made_by(dequantize.input[0]) != QUANTIZE:
            continue
        quantize = wiring.maker[dequantize.input[0]]
        model.graph.node.append(helper.make_node("Identity", [quantize.input[0]], [name], f"{name}/float"))
        dequantize.output[0] = f"{name}_quantized"


def drop_dead_pairs(model: onnx.ModelProto) -> None:
    """Remove quantizers that nobody reads; in place."""
    while True:
        read = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
        dead = [node for node in model.graph.node if node.op_type in PAIR and not read & set(node.output)]
        if not dead:
            return
        for node in dead:
            model.graph.node.remove(node)


def without_pairs(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float copy: weights as the floats they stand for, activations never rounded."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    wiring = Wiring(copy)
    for quantize, dequantize in wiring.activations():
        for node, slot in list(wiring.users.get(dequantize.output[0], ())):
            wiring.rewire(node, slot, quantize.input[0])
    _restore_outputs(copy)
    drop_dead_pairs(copy)
    unfold(copy, {node.name for node in copy.graph.node if node.op_type == "DequantizeLinear"})
    drop_unread(copy)
    return copy


def read_floats(model: onnx.ModelProto) -> None:
    """Let elementwise arithmetic on vectors read what was quantized instead of what came of it; in place."""
    wiring, shapes = Wiring(model), sizes(model)
    for quantize, dequantize in wiring.activations():
        for node, slot in list(wiring.users.get(dequantize.output[0], ())):
            if node.op_type in ELEMENTWISE and len(shapes.get(node.output[0], ())) == VECTOR:
                wiring.rewire(node, slot, quantize.input[0])
    drop_dead_pairs(model)
    drop_unread(model)
