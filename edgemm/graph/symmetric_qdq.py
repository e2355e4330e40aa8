"""Any static Q/DQ graph in the one form that TensorRT computes rightly: int8, zero point 0, written out axis and zero point, float biases.

In place, on graphs from anywhere: NNCF's uint8 pairs with zero point 0 (TensorRT takes them for int8 and clips every value above 127 steps:
54 dB become 9 dB), asymmetric pairs, biases stored as int32.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgemm.graph.branches import drop_unread
from edgemm.graph.qdq_pairs import DEQUANTIZE, PAIR, Wiring, attribute

TOP = 127
STORED = {TensorProto.UINT8: (0, 255), TensorProto.INT8: (-128, 127)}
"""Integer types that can be rewritten, with their range; a quantizer without a zero point is uint8."""


def make_symmetric(model: onnx.ModelProto) -> None:
    """Rewrite every quantizer of ``model``; in place.

    An activation's new range is the smallest symmetric one that holds the old: ``max(|lowest|, |highest|) / 127``, at most one bit lost.
    Its scales a channel (NNCF's before a depthwise convolution) become the widest of them: TensorRT fuses those of weights only.
    Asymmetric weights are rounded anew. Biases become the floats that they stand for. Pairs of other types (int16, float8) are left for
    ``graph.checks`` to name.
    """
    wiring = Wiring(model)
    for node in list(model.graph.node):
        if node.op_type == DEQUANTIZE and wiring.constants.get(node.input[0], TensorProto()).data_type == TensorProto.INT32:
            _unfold(wiring, node)
    wiring = Wiring(model)
    new_names: dict[tuple[str, ...], tuple[str, str]] = {}
    for node in list(model.graph.node):
        if node.op_type == DEQUANTIZE and node.input[0] in wiring.constants:
            _symmetric_weight(wiring, node)
        elif node.op_type in PAIR:
            _symmetric_pair(wiring, node, new_names)
    for node in model.graph.node:
        if node.op_type in PAIR:
            _write_axis(wiring, node)
    del model.graph.value_info[:]  # their types were those of the old pairs
    drop_unread(model)


def unfold(model: onnx.ModelProto, names: set[str]) -> None:
    """Turn the constants behind these DequantizeLinear nodes back into floats; in place."""
    wiring = Wiring(model)
    for node in list(model.graph.node):
        if node.name in names and node.op_type == DEQUANTIZE and wiring.is_constant(node.input[0]):
            _unfold(wiring, node)
    drop_unread(model)


def values_of(wiring: Wiring, node: onnx.NodeProto) -> np.ndarray | None:
    """The floats that a DequantizeLinear of a constant stands for; None where its parts are no constants."""
    stored, scale = wiring.constant(node.input[0]), wiring.constant(node.input[1])
    if stored is None or scale is None:
        return None
    zero = wiring.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    axis, block = attribute(node, "axis", 1), attribute(node, "block_size", 0)
    if block:  # a scale for so many neighbours
        scale, zero = np.repeat(scale, block, axis=axis), zero if zero is None else np.repeat(zero, block, axis=axis)
    shape = scale.shape if block else _spread(stored.ndim, scale, axis)
    floats = stored.astype(np.float64)
    if zero is not None:
        floats -= zero.astype(np.float64).reshape(shape)
    return np.asarray((floats * scale.astype(np.float64).reshape(shape)).astype(np.float32))


def _spread(rank: int, scale: np.ndarray, axis: int) -> tuple[int, ...]:
    """The shape in which a scale meets the tensor it belongs to."""
    if scale.size == 1:
        return (1,) * rank
    return tuple(scale.size if dim == axis % rank else 1 for dim in range(rank))


def _unfold(wiring: Wiring, node: onnx.NodeProto) -> None:
    floats = values_of(wiring, node)
    if floats is None:
        return
    wiring.graph.initializer.append(numpy_helper.from_array(floats, node.output[0]))
    wiring.graph.node.remove(node)


def _symmetric_weight(wiring: Wiring, node: onnx.NodeProto) -> None:
    """Weights: already int8 with zero point 0, or rounded anew in that form."""
    stored = wiring.constants[node.input[0]]
    zero = wiring.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    scale = wiring.constant(node.input[1])
    if stored.data_type not in STORED or scale is None:
        return
    if stored.data_type == TensorProto.INT8 and (zero is None or not zero.any()):
        if zero is None:
            _give(wiring, node, scale, None)
        return
    floats = values_of(wiring, node)
    if floats is None:
        return
    shape = _spread(floats.ndim, scale, attribute(node, "axis", 1))
    others = tuple(axis for axis, size in enumerate(shape) if size == 1) if scale.size > 1 else None
    reach = np.abs(floats).max(axis=others).reshape(scale.shape)
    step = np.maximum(reach / TOP, np.finfo(np.float32).tiny).astype(np.float32)
    integers = np.clip(np.round(floats / step.reshape(shape)), -TOP, TOP).astype(np.int8)
    _give(wiring, node, step, integers)


def _give(wiring: Wiring, node: onnx.NodeProto, scale: np.ndarray, stored: np.ndarray | None) -> None:
    """New constants for one quantizer, under names of its own: others may read the old ones."""
    fresh = {1: scale.astype(np.float32), 2: np.zeros(scale.shape, np.int8)} | ({0: stored} if stored is not None else {})
    while len(node.input) < 3:
        node.input.append("")
    for slot, content in fresh.items():
        name = f"{node.output[0]}_{('int8', 'scale', 'zero')[slot]}"
        wiring.graph.initializer.append(numpy_helper.from_array(np.asarray(content), name))
        node.input[slot] = name


def _symmetric_pair(wiring: Wiring, node: onnx.NodeProto, new_names: dict[tuple[str, ...], tuple[str, str]]) -> None:
    """An activation's quantizer; both of a pair read the same old constants, so both get the same new ones."""
    scale = wiring.constant(node.input[1])
    named = len(node.input) > 2 and bool(node.input[2])
    zero = wiring.constant(node.input[2]) if named else np.zeros(() if scale is None else scale.shape, np.uint8)
    if scale is None or zero is None:
        return
    kind = helper.np_dtype_to_tensor_dtype(zero.dtype)
    several = scale.size > 1 and not wiring.is_constant(node.input[0]) and not wiring.is_weight(node)
    if kind not in STORED or (named and kind == TensorProto.INT8 and not zero.any() and not several):
        return
    key = (node.input[1], node.input[2] if named else "")
    if key not in new_names:
        lowest, highest = STORED[kind]
        offset = zero.astype(np.float64)
        signed = kind == TensorProto.INT8 and not zero.any()
        reach = np.maximum(offset - (-TOP if signed else lowest), highest - offset) * scale.astype(np.float64)
        reach = reach.max() if several else reach
        new_names[key] = (f"{node.input[1]}_symmetric_{len(new_names)}", f"{node.input[1]}_zero_{len(new_names)}")
        wiring.graph.initializer.append(numpy_helper.from_array(np.asarray(reach / TOP, np.float32), new_names[key][0]))
        wiring.graph.initializer.append(numpy_helper.from_array(np.zeros(np.shape(reach), np.int8), new_names[key][1]))
    del node.input[1:]
    node.input.extend(new_names[key])


def _write_axis(wiring: Wiring, node: onnx.NodeProto) -> None:
    """Readers disagree about the axis that is not written (0 up to TensorRT 10.1, 1 in ONNX)."""
    scale = wiring.constant(node.input[1])
    if scale is None or scale.size == 1 or any(a.name == "axis" for a in node.attribute):
        return
    node.attribute.append(helper.make_attribute("axis", 1))
