"""Front-ends as ONNX nodes, put before an exported graph."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, MutableSequence, Sequence
from dataclasses import dataclass
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
OPSET, IR_VERSION = 18, 10
"""Of a front-end alone."""
AXES_AS_INPUT = 18  # ReduceMean and ReduceMax take their axes as an input since this opset


def prepend(model: ModelProto, card: Card, *, in_place: bool = False) -> ModelProto:
    """The same graph, taking what the box has: its inputs become those of ``input_specs(card)``.

    Args:
        model: Takes what ``forward`` receives: its inputs bear the card's names (a mask: ``<input>_mask``), or stand in card order.
        in_place: Change ``model`` itself, whose weights may be gigabytes.

    Returns:
        A new model, or ``model``. Front-end nodes are called ``frontend/<input>/<number>_<Op>`` and come first, in float32.

    Raises:
        CardError: The graph has another number of inputs.
        ExportError: Its opset is too old.
    """
    opset = opset_of(model)
    if opset < OLDEST_OPSET:
        raise ExportError(
            f"the graph has opset {opset}, a front-end needs at least {OLDEST_OPSET}.",
            fix="convert it with onnx.version_converter.convert_version(model, 18).",
        )
    parts, taken = modalities(card), features(model.graph, card)
    merged = model
    if not in_place:
        merged = ModelProto()
        merged.CopyFrom(model)
    graph = merged.graph
    initializers = {value.name for value in graph.initializer}
    old_inputs = {value.name: value for value in graph.input if value.name not in initializers}
    cast = {name for name, olds in taken.items() if parts[name].dtype() in ("float16", "float64") and _is_single(old_inputs[olds[0]])}
    inners = {name: [inner(name, k, parts[name]) if name not in cast else f"{PREFIX}{name}/float32" for k in range(2)] for name in taken}
    _rename(graph, {old: inners[name][number] for name, olds in taken.items() for number, old in enumerate(olds)})
    nodes: list[NodeProto] = []
    inputs = []
    for spec in input_specs(card):
        ops = parts[spec.name].frontend()
        builder = _Builder(spec.name, opset, nodes, graph.initializer)
        if spec.name in cast:
            nodes.append(helper.make_node("Cast", [spec.name], inners[spec.name][:1], f"{PREFIX}{spec.name}/0_Cast", to=TensorProto.FLOAT))
        builder.run(ops, card.inputs[spec.name].steps, parts[spec.name], inners[spec.name])
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


def reform(model: ModelProto, card: Card, forms: Mapping[str, str]) -> ModelProto:
    """The same graph with other forms of its front-ends; the rest of it stays as it is.

    Args:
        model: As ``prepend`` leaves it, quantized or not.
        forms: Input -> name of one of its modality's ``frontend_forms``.
    """
    changed = ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    nodes: list[NodeProto] = []
    for name, form in forms.items():
        own = _own(name)
        rest = [node for node in graph.node if not own.fullmatch(node.name)]
        constants = [tensor for tensor in graph.initializer if not own.fullmatch(tensor.name)]
        del graph.node[:], graph.initializer[:]
        graph.node.extend(rest)
        graph.initializer.extend(constants)
        part = modalities(card)[name]
        builder = _Builder(name, opset_of(model), nodes, graph.initializer)
        builder.run(part.frontend_forms()[form], card.inputs[name].steps, part, [inner(name, k, part) for k in range(2)])
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
    return changed


def _own(name: str) -> re.Pattern[str]:
    """Names of the nodes and constants of one input's front-end."""
    return re.compile(rf"{re.escape(PREFIX + name)}/(constant_)?\d+(_\w+)?")


def alone(card: Card, name: str, form: str) -> ModelProto:
    """One input's front-end in one form: from what the box has to what ``forward`` receives."""
    part = modalities(card)[name]
    (spec,) = (spec for spec in input_specs(card) if spec.name == name)
    nodes: list[NodeProto] = []
    constants: list[TensorProto] = []
    out = inner(name, 0, part)
    _Builder(name, OPSET, nodes, constants).run(part.frontend_forms()[form], card.inputs[name].steps, part, [out, ""])
    taken = helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), spec.shape)
    feature = helper.make_tensor_value_info(out, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "front-end", [taken], [feature], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


@dataclass(frozen=True)
class Built:
    """Nodes of a front-end with their constants, from the input's name to ``out``."""

    nodes: list[NodeProto]
    constants: list[TensorProto]
    out: str


def build(name: str, ops: list[frontend_ops.Op], part: Modality, *, opset: int, steps: int | None = None, out: str | None = None) -> Built:
    """Operations of one input as ``prepend`` adds them; without ``out`` the last tensor has the name that it has inside of more of them."""
    nodes: list[NodeProto] = []
    constants: list[TensorProto] = []
    at = _Builder(name, opset, nodes, constants).run(ops, steps, part, [out, ""])
    return Built(nodes, constants, at)


def form_of(model: ModelProto, card: Card, name: str) -> str | None:
    """Which of its modality's ``frontend_forms`` ("": the only one) an input's front-end has in a graph; None where somebody changed it."""
    part = modalities(card)[name]
    forms = part.frontend_forms() or {"": part.frontend()}
    own = _own(name)
    nodes = {node.name for node in model.graph.node if own.fullmatch(node.name)}
    for form, ops in forms.items():
        if nodes == {node.name for node in build(name, ops, part, opset=opset_of(model), steps=card.inputs[name].steps).nodes}:
            return form
    return None


def opset_of(model: ModelProto) -> int:
    """The version of ONNX's own operators that a model uses; 0 where it does not say."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def features(graph: GraphProto, card: Card) -> dict[str, list[str]]:
    """Card input -> the graph inputs that take what its front-end yields.

    Raises:
        CardError: The graph has another number of inputs.
    """
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


def inner(name: str, number: int, part: Modality) -> str:
    """The tensor that the old graph reads in place of its input ``number`` of card input ``name``."""
    ops = part.frontend()
    if not ops or (number == 0 and len(ops) == 1 and isinstance(ops[0], frontend_ops.Mask)):
        return name
    return f"{PREFIX}{name}/{'mask' if number else 'out'}"


def _is_single(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == TensorProto.FLOAT)


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

    def __init__(self, name: str, opset: int, nodes: list[NodeProto], initializers: MutableSequence[TensorProto]) -> None:
        self.name, self.opset, self.nodes, self.initializers = name, opset, nodes, initializers
        self.count = self.constants = self.bins = 0

    def run(self, ops: list[frontend_ops.Op], steps: int | None, part: Modality, outs: Sequence[str | None]) -> str:
        """From the graph input to ``outs``: the tensor the old graph reads, and its mask. The name of the first."""
        at, last = self.name, outs[0]
        fold = steps is not None and frontend_ops.folds(ops)
        if fold:
            at = self._reshape(at, (-1, *part.shape()))
        for number, op in enumerate(ops):
            at = self._op(op, at, last if number == len(ops) - 1 and not fold else None, outs[1] or "")
        if fold:
            sizes = frontend_ops.run(ops, part.absent()[None])[0].shape[1:]
            at = self._reshape(at, (-1, steps, *sizes), last)
        return at

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
            case frontend_ops.Blocks():
                return self._blocks(op, x, out)
            case frontend_ops.Spectrum():
                return self._spectrum(op, x, out)
            case frontend_ops.Bands(weight=weight):
                return self._node("Transpose", [self._node("MatMul", [x, self._constant(weight)])], out, perm=[0, 2, 1])
            case frontend_ops.Power(exponent=exponent):
                real, imaginary = self._halves(self._node("Mul", [x, x]), self.bins, axis=1)
                return self._power(real, imaginary, exponent, out)
            case frontend_ops.MatMul(weight=weight):
                return self._node("MatMul", [self._constant(weight), x], out)
            case frontend_ops.Log(floor=floor, offset=offset):
                x = self._node("Add", [x, self._constant(np.float32(offset))]) if offset else x
                return self._node("Log", [self._node("Max", [x, self._constant(np.float32(floor))])], out)
            case frontend_ops.Normalize():
                return self._normalize(x, op, out)
            case frontend_ops.Within(distance=distance):
                least = self._node("Sub", [self._reduced("ReduceMax", x, [1, 2]), self._constant(np.float32(distance))])
                return self._node("Max", [x, least], out)
            case frontend_ops.Extend(more=more):
                if more < 0:
                    return self._node("Slice", [x, *(self._constant(np.array([value])) for value in (0, more, 2))], out)
                return self._node("Pad", [x, self._constant(np.array([0, 0, 0, 0, 0, more]))], out)
            case frontend_ops.Mask(pad=pad):
                same = self._node("Equal", [x, self._constant(np.int64(pad))])
                self._node("Cast", [self._node("Not", [same])], mask, to=TensorProto.INT64)
                return x
        raise TypeError(f"unknown front-end operation {op}")

    def _blocks(self, op: frontend_ops.Blocks, x: str, out: str | None) -> str:
        """Frames by one Gather of pieces that hops and frames are made of; its indices are computed, so that no table of them is stored."""
        if op.overrun:
            x = self._node("Pad", [x, self._constant(np.array([0, 0, 0, op.overrun]))])
        piece = math.gcd(op.hop, op.window.size)
        if piece > 1:
            if not op.overrun:
                x = self._slice(x, 0, (op.frames - 1) * op.hop + op.window.size, axis=1)
            x = self._reshape(x, (0, -1, piece))
        starts = self._node("Mul", [self._range(op.frames), self._constant(np.int64(op.hop // piece))])
        column = self._node("Reshape", [starts, self._constant(np.array([-1, 1]))])
        indices = self._node("Add", [column, self._range(op.window.size // piece)])
        blocks = self._reshape(self._node("Gather", [x, indices], axis=1), (0, op.frames, *op.window.shape))
        return self._node("Mul", [blocks, self._constant(op.window)], out)

    def _spectrum(self, op: frontend_ops.Spectrum, x: str, out: str | None) -> str:
        """Real and imaginary parts are never joined: behind a Concat OpenVINO 2026.4 computes an INT8 convolution wrongly."""
        real, imaginary = (self._node("MatMul", [self._constant(table), x]) for table in (op.down_real, op.down_imaginary))
        for kind, tables in (("Mul", (op.turn_cosines, op.turn_sines)), ("MatMul", (op.along_cosines, op.along_sines))):
            cosines, sines = map(self._constant, tables)
            real, imaginary = (
                self._node("Add", [self._node(kind, [real, cosines]), self._node(kind, [imaginary, sines])]),
                self._node("Sub", [self._node(kind, [imaginary, cosines]), self._node(kind, [real, sines])]),
            )
        power = self._power(self._node("Mul", [real, real]), self._node("Mul", [imaginary, imaginary]), op.exponent)
        return self._reshape(power, (0, 0, -1), out)

    def _range(self, count: int) -> str:
        return self._node("Range", [self._constant(np.int64(value)) for value in (0, count, 1)])

    def _power(self, real: str, imaginary: str, exponent: float, out: str | None = None) -> str:
        """From the squares of both parts."""
        if exponent == 2.0:
            return self._node("Add", [real, imaginary], out)
        power = self._node("Add", [real, imaginary])
        if exponent == 1.0:
            return self._node("Sqrt", [power], out)
        return self._node("Pow", [power, self._constant(np.float32(exponent / 2))], out)

    def _halves(self, x: str, size: int, *, axis: int) -> list[str]:
        return [self._slice(x, size * half, size * (half + 1), axis=axis) for half in (0, 1)]

    def _slice(self, x: str, start: int, end: int, *, axis: int) -> str:
        return self._node("Slice", [x, *(self._constant(np.array([value])) for value in (start, end, axis))])

    def _normalize(self, x: str, op: frontend_ops.Normalize, out: str | None) -> str:
        axes = [1] if op.added else [1, 2]  # samples, or bands over time
        centred = self._node("Sub", [x, self._reduced("ReduceMean", x, axes)])
        variance = self._reduced("ReduceMean", self._node("Mul", [centred, centred]), axes)
        variance = self._node("Add", [variance, self._constant(np.float32(op.added))]) if op.added else variance
        deviation = self._node("Sqrt", [variance])
        deviation = self._node("Add", [deviation, self._constant(np.float32(op.floor))]) if op.floor else deviation
        return self._node("Div", [centred, deviation], out)

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
