"""Front-ends as ONNX nodes, put before an exported graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgemm.contracts import frontend_ops
from edgemm.contracts.card import Card
from edgemm.contracts.modality import Modality, input_specs, modalities
from edgemm.errors import CardError, ExportError

PREFIX = "frontend/"
"""How the name of every front-end node begins."""

OLDEST_OPSET = 11
AXES_AS_INPUT = 18  # ReduceMean and ReduceMax take their axes as an input since this opset


def prepend(model: ModelProto, card: Card) -> ModelProto:
    """The same graph, taking what the box has: its inputs become those of ``input_specs(card)``.

    Args:
        model: Takes what ``forward`` receives: its inputs bear the card's names (a mask: ``<input>_mask``), or stand in card order.

    Returns:
        A new model. Front-end nodes are called ``frontend/<input>/<number>_<Op>`` and come first, in float32.

    Raises:
        CardError: The graph has another number of inputs.
        ExportError: Its opset is too old.
    """
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < OLDEST_OPSET:
        raise ExportError(
            f"the graph has opset {opset}, a front-end needs at least {OLDEST_OPSET}.",
            fix="convert it with onnx.version_converter.convert_version(model, 18).",
        )
    parts, taken = modalities(card), _features(model.graph, card)
    merged = ModelProto()
    merged.CopyFrom(model)
    graph = merged.graph
    initializers = {value.name for value in graph.initializer}
    old_inputs = {value.name: value for value in graph.input if value.name not in initializers}
    _rename(graph, {old: _inner(name, number, parts[name]) for name, olds in taken.items() for number, old in enumerate(olds)})
    nodes: list[NodeProto] = []
    inputs = []
    for spec in input_specs(card):
        ops = parts[spec.name].frontend()
        builder = _Builder(spec.name, opset, nodes, graph.initializer)
        builder.run(ops, card.inputs[spec.name].steps, parts[spec.name], [_inner(spec.name, k, parts[spec.name]) for k in range(2)])
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
        shape: Sequence[int | str | None] = spec.shape
        if not ops:  # keep the graph's own names of free axes
            shape = _declared(old_inputs[taken[spec.name][0]]) or spec.shape
        inputs.append(helper.make_tensor_value_info(spec.name, kind, shape))
    rest = list(graph.node)
    kept = [value for value in graph.input if value.name in initializers]
    del graph.node[:], graph.input[:]
    graph.node.extend([*nodes, *rest])
    graph.input.extend([*inputs, *kept])
    return merged


def _features(graph: GraphProto, card: Card) -> dict[str, list[str]]:
    """Card input -> the graph inputs that take what its front-end yields."""
    initializers = {value.name for value in graph.initializer}
    graph_inputs = [value.name for value in graph.input if value.name not in initializers]
    card_inputs = {name: [name, f"{name}_mask"] if _masked(part) else [name] for name, part in modalities(card).items()}
    flat = [name for names in card_inputs.values() for name in names]
    if set(flat) == set(graph_inputs):
        return card_inputs
    if len(flat) != len(graph_inputs):
        raise CardError(
            f"the graph takes {len(graph_inputs)} inputs, the card describes {len(flat)}.",
            why=f"the graph: {', '.join(graph_inputs)}; the card: {', '.join(flat)}.",
            fix="list under inputs: what the graph takes, in its order.",
        )
    graph_names = dict(zip(flat, graph_inputs, strict=True))
    return {name: [graph_names[entry] for entry in names] for name, names in card_inputs.items()}


def _masked(part: Modality) -> bool:
    return any(isinstance(op, frontend_ops.Mask) for op in part.frontend())


def _inner(name: str, number: int, part: Modality) -> str:
    """The tensor that the old graph reads in place of its input ``number`` of card input ``name``."""
    ops = part.frontend()
    if not ops or (number == 0 and len(ops) == 1 and isinstance(ops[0], frontend_ops.Mask)):
        return name
    return f"{PREFIX}{name}/{'mask' if number else 'out'}"


def _declared(value: onnx.ValueInfoProto) -> list[int | str | None] | None:
    if not value.type.tensor_type.HasField("shape"):
        return None
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in value.type.tensor_type.shape.dim]


def _rename(graph: GraphProto, names: dict[str, str]) -> None:
    """Rename tensors wherever they are read, also inside the bodies of If, Loop and Scan."""
    names = {old: new for old, new in names.items() if old != new}
    for node in graph.node:
        for slot, read in enumerate(node.input):
            node.input[slot] = names.get(read, read)
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                _rename_body(attribute.g, names)
            for body in attribute.graphs:
                _rename_body(body, names)
    for value in graph.output:
        if value.name in names:  # an input handed straight out: give it back its name
            graph.node.append(helper.make_node("Identity", [names[value.name]], [value.name], name=f"{value.name}_Identity"))


def _rename_body(body: GraphProto, names: dict[str, str]) -> None:
    own = {value.name for value in [*body.input, *body.initializer]} | {output for node in body.node for output in node.output}
    _rename(body, {old: new for old, new in names.items() if old not in own})


class _Builder:
    """Adds the nodes of one input's front-end."""

    def __init__(self, name: str, opset: int, nodes: list[NodeProto], initializers: list[TensorProto]) -> None:
        self.name, self.opset, self.nodes, self.initializers = name, opset, nodes, initializers
        self.count = self.constants = self.bins = 0

    def run(self, ops: list[frontend_ops.Op], steps: int | None, part: Modality, outs: list[str]) -> None:
        """From the graph input to ``outs``: the tensor the old graph reads, and its mask."""
        at, last = self.name, outs[0]
        fold = steps is not None and frontend_ops.folds(ops)
        if fold:
            at = self._reshape(at, (-1, *part.shape()))
        for number, op in enumerate(ops):
            at = self._op(op, at, last if number == len(ops) - 1 and not fold else None, outs[1])
        if fold:
            sizes = frontend_ops.run(ops, part.absent()[None])[0].shape[1:]
            self._reshape(at, (-1, steps, *sizes), last)

    def _op(self, op: frontend_ops.Op, x: str, out: str | None, mask: str) -> str:
        match op:
            case frontend_ops.Cast(dtype=dtype):
                return self._node("Cast", [x], out, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
            case frontend_ops.Transpose(axes=axes):
                return self._node("Transpose", [x], out, perm=[0, *axes])
            case frontend_ops.Affine(scale=scale, shift=shift):
                return self._node("Add", [self._node("Mul", [x, self._constant(scale)]), self._constant(shift)], out)
            case frontend_ops.Peak(floor=floor):
                largest = self._node("Max", [self._reduced("ReduceMax", x, [1]), self._constant(np.float32(floor))])
                return self._node("Div", [x, largest], out)
            case frontend_ops.Reflect(width=width):
                return self._node("Pad", [x, self._constant(np.array([0, width, 0, width]))], out, mode="reflect")
            case frontend_ops.Frames(weight=weight, hop=hop):
                self.bins = weight.shape[0] // 2
                wave = self._reshape(x, (0, 1, -1))
                return self._node("Conv", [wave, self._constant(weight)], out, strides=[hop], kernel_shape=[weight.shape[-1]])
            case frontend_ops.Power(exponent=exponent):
                return self._power(x, self.bins, exponent, out)
            case frontend_ops.MatMul(weight=weight):
                return self._node("MatMul", [self._constant(weight), x], out)
            case frontend_ops.Log(floor=floor, offset=offset):
                x = self._node("Add", [x, self._constant(np.float32(offset))]) if offset else x
                return self._node("Log", [self._node("Max", [x, self._constant(np.float32(floor))])], out)
            case frontend_ops.Normalize(floor=floor):
                return self._normalize(x, floor, out)
            case frontend_ops.Mask(pad=pad):
                same = self._node("Equal", [x, self._constant(np.int64(pad))])
                self._node("Cast", [self._node("Not", [same])], mask, to=TensorProto.INT64)
                return x
        raise TypeError(f"unknown front-end operation {op}")

    def _power(self, x: str, bins: int, exponent: float, out: str | None) -> str:
        squares = self._node("Mul", [x, x])
        real, imaginary = (self._half(squares, bins * half, bins * (half + 1)) for half in (0, 1))
        if exponent == 2.0:
            return self._node("Add", [real, imaginary], out)
        power = self._node("Add", [real, imaginary])
        if exponent == 1.0:
            return self._node("Sqrt", [power], out)
        return self._node("Pow", [power, self._constant(np.float32(exponent / 2))], out)

    def _half(self, x: str, start: int, end: int) -> str:
        return self._node("Slice", [x, *(self._constant(np.array([value])) for value in (start, end, 1))])

    def _normalize(self, x: str, floor: float, out: str | None) -> str:
        centred = self._node("Sub", [x, self._reduced("ReduceMean", x, [1, 2])])
        deviation = self._node("Sqrt", [self._reduced("ReduceMean", self._node("Mul", [centred, centred]), [1, 2])])
        return self._node("Div", [centred, self._node("Add", [deviation, self._constant(np.float32(floor))])], out)

    def _reduced(self, op: str, x: str, axes: list[int]) -> str:
        if self.opset >= AXES_AS_INPUT:
            return self._node(op, [x, self._constant(np.array(axes))], keepdims=1)
        return self._node(op, [x], axes=axes, keepdims=1)

    def _reshape(self, x: str, shape: tuple[int | str | None, ...], out: str | None = None) -> str:
        return self._node("Reshape", [x, self._constant(np.array(shape, np.int64))], out)

    def _node(self, op: str, inputs: list[str], out: str | None = None, **attributes: Any) -> str:
        name = f"{PREFIX}{self.name}/{self.count}_{op}"
        self.count += 1
        out = out or f"{name}_out"
        self.nodes.append(helper.make_node(op, inputs, [out], name=name, **attributes))
        return out

    def _constant(self, value: np.ndarray | np.generic) -> str:
        name = f"{PREFIX}{self.name}/constant_{self.constants}"
        self.constants += 1
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name
