"""What a Q/DQ graph becomes before OpenVINO reads it: the same numbers, written so that it computes them rightly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgemm.graph import placement, trained_qdq
from edgemm.graph.branches import WEIGHTED, drop_unread
from edgemm.graph.float_tail import float_tail, means_over_bins
from edgemm.graph.qdq_pairs import DEQUANTIZE, MOVING, PAIR, Wiring, attribute

OFFSET = 128
"""From int8 to uint8: the same steps, counted from another zero."""
CARRYING = (*MOVING, *PAIR, "Relu", "AveragePool", "Neg", "Mul", "Div")
"""Operators that the fault is carried through, the last two by a constant."""


def normalise(model: onnx.ModelProto) -> None:
    """Bring a Q/DQ graph from anywhere into the form that OpenVINO computes rightly; in place."""
    placement.read_floats(model)
    trained_qdq.pairs_before_maxima(model)  # of a maximum over what a mask shut out
    make_unsigned_where_moved(model)
    write_means_as_sums(model)


def make_unsigned_where_moved(model: onnx.ModelProto) -> None:
    """Give int8 pairs that come to a convolution by way of a Concat, or are moved on their way, the same steps in uint8; in place.

    No value changes. In a graph with a Concat anywhere OpenVINO 2026.4 loses the zero point when it turns such int8 into uint8, as it does
    for every kernel but those of AMX: what comes through a Concat is off by a third of its size, through Split, Slice, MaxPool, Resize and
    their like by as much, silently and in static shapes too. Other pairs stay int8: a convolution in groups with a zero point at its input
    runs in float.
    """
    wiring, zeros = Wiring(model), dict[str, np.ndarray]()
    for pair in wrong_pairs(wiring):
        zero = wiring.constant(pair.node.input[2])
        assert zero is not None  # it is one of the wrong ones
        name = f"{pair.node.input[2]}/uint8"
        zeros[name] = (zero.astype(np.int16) + OFFSET).astype(np.uint8)
        for node in (pair.node, *pair.readers):
            node.input[2] = name
    if zeros:
        model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in zeros.items())
        del model.graph.value_info[:]  # their types were those of the old pairs
        drop_unread(model)


def write_means_as_sums(model: onnx.ModelProto) -> None:
    """Write means over bins that stand as a layer (``float_tail``) as a product and a sum; in place.

    Where OpenVINO 2026.4 runs the rest in bf16, it keeps what follows the last layers in f32 by itself. But the mean it takes for a layer,
    and runs it in bf16 too, with the softmax before it: that costs 0.2 pixels at a stride of 32.
    """
    tail, wiring = float_tail(model), Wiring(model)
    for node in means_over_bins(model):
        if node.name in tail:
            _write_as_sum(wiring, node)


def _write_as_sum(wiring: Wiring, node: onnx.NodeProto) -> None:
    """A mean over bins as Mul and ReduceSum, where it is one number a distribution."""
    weights, axis = wiring.constant(node.input[1]), 1 if node.op_type == "Conv" else -1
    steps = {step for a in node.attribute if a.name in ("strides", "dilations") for step in a.ints}
    if weights is None or len(node.input) > 2 or weights.shape[0 if node.op_type == "MatMul" else 1] != weights.size or steps - {1}:
        return
    shape = (1, -1, *weights.shape[2:]) if node.op_type == "Conv" else (-1,)
    parts = {f"{node.name}/bins": weights.reshape(shape), f"{node.name}/axis": np.array([axis])}
    wiring.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in parts.items())
    bins, along = parts
    weighed = f"{node.output[0]}/weighed"
    position = list(wiring.graph.node).index(node)
    wiring.graph.node.remove(node)
    pair = (
        helper.make_node("Mul", [node.input[0], bins], [weighed], f"{node.name}/weigh"),
        helper.make_node("ReduceSum", [weighed, along], [node.output[0]], f"{node.name}/sum", keepdims=int(weights.ndim > 1)),
    )
    for offset, new in enumerate(pair):
        wiring.graph.node.insert(position + offset, new)


@dataclass(frozen=True)
class Pair:
    """An int8 quantizer of what changes.

    Attributes:
        readers: The nodes that dequantize what it makes.
        concats: Results of the Concats that its values come to.
        is_wrong: Whether they come to a convolution in a way that OpenVINO gets wrong.
        is_multiplied: Whether a Concat hands them to a product of matrices, which OpenVINO refuses to compile in uint8.
    """

    node: onnx.NodeProto
    readers: list[onnx.NodeProto]
    concats: frozenset[str]
    is_wrong: bool
    is_multiplied: bool


def wrong_pairs(wiring: Wiring) -> list[Pair]:
    """Int8 pairs whose values OpenVINO hands on wrongly, and those that a Concat joins with them; in graph order."""
    if not any(node.op_type == "Concat" for node in wiring.graph.node):
        return []
    pairs = [pair for node in wiring.graph.node if _is_signed(wiring, node) and (pair := _pair(wiring, node)) is not None]
    refused = _joined_with({number for number, pair in enumerate(pairs) if pair.is_multiplied}, pairs)
    wrong = _joined_with({number for number, pair in enumerate(pairs) if pair.is_wrong} - refused, pairs)
    return [pairs[number] for number in sorted(wrong)]


def _joined_with(some: set[int], pairs: list[Pair]) -> set[int]:
    """``some`` and those that come to a Concat with one of them, directly or over others."""
    while True:
        concats = {concat for number in some for concat in pairs[number].concats}
        more = {number for number, pair in enumerate(pairs) if pair.concats & concats} - some
        if not more:
            return some
        some = some | more


def _pair(wiring: Wiring, node: onnx.NodeProto) -> Pair | None:
    readers = [user for user, _ in wiring.users.get(node.output[0], ())]
    if any(reader.op_type != DEQUANTIZE for reader in readers):
        return None
    ways, behind = [*_ways(wiring, node.output[0])], _is_joined(wiring, node.input[0])
    concats = frozenset(way.end.output[0] for way in ways if way.end.op_type == "Concat")
    wrong = any((way.is_moved or behind) and way.end.op_type == "Conv" and attribute(way.end, "group", 1) == 1 for way in ways)
    return Pair(node, readers, concats, wrong, any(way.is_joined and way.end.op_type in ("MatMul", "Gemm") for way in ways))


@dataclass(frozen=True)
class _Way:
    """How a tensor comes to a Concat or a layer: past operators that carry it, Concats among them."""

    end: onnx.NodeProto
    is_moved: bool
    is_joined: bool


def _ways(wiring: Wiring, name: str, *, is_moved: bool = False, is_joined: bool = False) -> Iterator[_Way]:
    for node, slot in wiring.users.get(name, ()):
        if node.op_type == "Concat" or (node.op_type in WEIGHTED and slot == 0):
            yield _Way(node, is_moved, is_joined)
        if node.op_type in PAIR:
            yield from _ways(wiring, node.output[0], is_moved=is_moved, is_joined=is_joined)
        elif node.op_type == "Concat" or _carries(wiring, node, name):
            for output in node.output:
                yield from _ways(wiring, output, is_moved=True, is_joined=is_joined or node.op_type == "Concat")


def _is_signed(wiring: Wiring, node: onnx.NodeProto) -> bool:
    """Whether a node quantizes what changes to int8."""
    if node.op_type != "QuantizeLinear" or wiring.is_constant(node.input[0]) or len(node.input) < 3:
        return False
    zero = wiring.constant(node.input[2])
    return zero is not None and zero.dtype == np.int8


def _carries(wiring: Wiring, node: onnx.NodeProto, name: str) -> bool:
    """Whether what a node makes is ``name`` moved, or scaled by constants."""
    if node.op_type not in CARRYING:
        return False
    if node.op_type == "Mul":
        return any(wiring.is_constant(other) for other in node.input if other != name)
    return node.input[0] == name and (node.op_type != "Div" or wiring.is_constant(node.input[1]))


def _is_joined(wiring: Wiring, name: str) -> bool:
    """Whether a tensor is a Concat's result, or carries it."""
    node = wiring.maker.get(name)
    if node is None or node.op_type == "Concat":
        return node is not None
    return any(_is_joined(wiring, source) for source in node.input if _carries(wiring, node, source))
