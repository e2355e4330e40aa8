"""Graphs that come with Q/DQ, from quantization-aware training: what of them is done, and their numbers in the target's form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgemm.contracts.card import Card
from edgemm.graph.branches import FRONTEND, Branches, drop_unread
from edgemm.graph.qdq_pairs import DEQUANTIZE, PAIR, PASSING, PRODUCTS, QUANTIZE, Wiring

FLOATS = "edgemm.float_branches"
"""Model metadata: branches that training left in float on purpose, joined by spaces."""
DEFAULT = "default"
MIDDLE = 128  # of uint8


def mark_floats(model: onnx.ModelProto, branches: Iterable[str]) -> None:
    """Write down that training left these branches in float on purpose; in place."""
    names = " ".join(branches)
    if names:
        model.metadata_props.add(key=FLOATS, value=names)


def own_zero_points(model: onnx.ModelProto) -> None:
    """Give every quantizer of weights a zero point that no other reads; in place.

    OpenVINO 2026.4 folds the zero point of weights away. Where a four-axis and a three-axis convolution share one it does not, and runs
    every layer that reads it in float.
    """
    wiring = Wiring(model)
    for node in model.graph.node:
        zero = wiring.constants.get(node.input[2]) if node.op_type == DEQUANTIZE and wiring.is_weight(node) else None
        if zero is not None:
            own = onnx.TensorProto()
            own.CopyFrom(zero)
            own.name = node.input[2] = f"{node.output[0]}_zero_point"
            model.graph.initializer.append(own)
    drop_unread(model)


def pairs_before_maxima(model: onnx.ModelProto) -> None:
    """Where the largest values of an axis are quantized, quantize what they are taken from the same way too; in place.

    No value changes: rounding to a grid keeps order, so that the largest comes out on the same step. OpenVINO 2026.4 computes a ReduceMax
    with a quantizer behind it wrongly (a convolution over words, 18 dB of signal over error instead of 38), unless it reads integers.
    """
    wiring, done = Wiring(model), set[str]()
    for quantize, dequantize in wiring.activations():
        steps = wiring.constant(quantize.input[1])
        for node in _maxima(wiring, quantize.input[0]) if steps is not None and steps.size == 1 else ():
            if node.output[0] in done or wiring.made_by(node.input[0]) == DEQUANTIZE:
                continue
            done.add(node.output[0])
            integers, floats = f"{node.output[0]}/quantized", f"{node.output[0]}/dequantized"
            pair = (
                helper.make_node(QUANTIZE, [node.input[0], *quantize.input[1:]], [integers], name=f"{node.name}/{QUANTIZE}"),
                helper.make_node(DEQUANTIZE, [integers, *dequantize.input[1:]], [floats], name=f"{node.name}/{DEQUANTIZE}"),
            )
            index = list(model.graph.node).index(node)
            node.input[0] = floats
            for new in reversed(pair):
                model.graph.node.insert(index, new)


def _maxima(wiring: Wiring, name: str) -> list[onnx.NodeProto]:
    """The ReduceMax nodes whose values, only moved and joined, are all that ``name`` holds of them, and that nobody else reads."""
    node = wiring.maker.get(name)
    if node is None or name in wiring.outputs or len(wiring.users[name]) != 1 or node.name.startswith(FRONTEND):
        return []
    if node.op_type == "ReduceMax":
        return [node]
    if node.op_type == "Concat":
        return [maximum for source in node.input for maximum in _maxima(wiring, source)]
    return _maxima(wiring, node.input[0]) if node.op_type in PASSING else []


def has_pairs(model: onnx.ModelProto) -> bool:
    """Whether a graph holds quantizers already."""
    return any(node.op_type in PAIR for node in model.graph.node)


def finished(model: onnx.ModelProto, branches: Branches, card: Card, precision: Mapping[str, str]) -> list[str]:
    """Nodes that calibrating has to leave alone: all but those of branches with layers that training neither quantized nor left in float.

    Args:
        precision: The recipe's; a branch it calls int8 by name is calibrated although training left it in float.
    """
    int8_by_name = {
        branch
        for selector, precision_name in precision.items()
        if selector != DEFAULT and precision_name == "int8"
        for branch in branches.select(selector, card)
    }
    on_purpose = set(_float_branches(model)) - int8_by_name
    wiring = Wiring(model)
    done = {branches.of_node[node.name] for node in model.graph.node if node.op_type in PAIR}
    layers = {branches.of_node[node.name] for node in model.graph.node if _is_layer(wiring, node) and node.name not in branches.frontend}
    rest = layers - done - on_purpose
    return [name for name, branch in branches.of_node.items() if branch not in rest or name in branches.frontend]


def _float_branches(model: onnx.ModelProto) -> list[str]:
    return next((entry.value.split() for entry in model.metadata_props if entry.key == FLOATS), [])


def _is_layer(wiring: Wiring, node: onnx.NodeProto) -> bool:
    """Whether a node multiplies by constant weights, or looks floats up in a constant table."""
    if node.op_type in PRODUCTS:
        return any(wiring.is_constant(name) for name in node.input[:2])
    table = wiring.constant(node.input[0]) if node.op_type == "Gather" else None
    return table is not None and table.dtype.kind == "f" and table.ndim == 2


def make_unsigned(model: onnx.ModelProto) -> None:
    """Give every int8 pair of an activation the same steps in uint8: ONNX Runtime's x86 kernels want them; in place.

    After a Relu the zero point is 0, so that the runtime can leave the Relu out and compute the layer in integers (12% of the time of a
    residual network and GRU); values above the trained range are then no longer clipped. Elsewhere it is 128: the same values exactly.
    """
    wiring = Wiring(model)
    used: dict[str, int] = {}
    for quantize, dequantize in [pair for pair in wiring.activations() if _is_signed(wiring, pair[0])]:
        zero = 0 if wiring.made_by(quantize.input[0]) == "Relu" else MIDDLE
        name = f"zero_point_uint8_{zero}"
        used[name] = zero
        quantize.input[2] = dequantize.input[2] = name
    model.graph.initializer.extend(numpy_helper.from_array(np.array(zero, np.uint8), name) for name, zero in used.items())
    del model.graph.value_info[:]  # their types were those of the old pairs
    drop_unread(model)


def _is_signed(wiring: Wiring, node: onnx.NodeProto) -> bool:
    """int8, zero point 0, one scale."""
    zero = wiring.constants.get(node.input[2]) if len(node.input) > 2 else None
    if zero is None or zero.data_type != TensorProto.INT8:
        return False
    content = numpy_helper.to_array(zero)
    return content.size == 1 and not content.any()
