"""Late fusion in ONNX: the members' graphs laid into one, and the joints as its last nodes."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

from edgemm.contracts import joint_ops
from edgemm.contracts.card import Card
from edgemm.contracts.specs import BATCH
from edgemm.errors import CardError
from edgemm.graph.branches import node_inputs
from edgemm.graph.exporter_leftovers import SCOPES
from edgemm.graph.frontend import PREFIX as FRONTEND
from edgemm.graph.frontend import opset_of

JOINT = "joint"
"""How names of nodes and scopes of a joint begin, and those of its parameters: ``joint.<head>.<parameter>``."""
OPSET = 18  # ReduceMax takes its axes as an input since this one


@dataclass(frozen=True)
class Member:
    """One member's float graph, with its front-end.

    Attributes:
        inputs: Its graph input -> input of the fused card.
        outputs: Its outputs that are heard, and states.
    """

    model: onnx.ModelProto
    inputs: Mapping[str, str]
    outputs: Sequence[str]


def answer_name(member: str, output: str) -> str:
    """The tensor that holds a member's own answer."""
    return f"{member}/{output}"


def state_name(member: str, output: str) -> str:
    """What a member's state is called among the outputs of the fused card."""
    return f"{member}_{output}"


def lay_together(members: Mapping[str, Member], shapes: Mapping[str, Sequence[int | str]]) -> onnx.ModelProto:
    """One graph that answers what each member does, as ``<member>/<output>``. Members that share an input share its front-end.

    Args:
        shapes: Input of the fused card -> its shape there, for axes that a member's file leaves open under a name of its own.

    Raises:
        CardError: A member's graph is older than what a joint needs.
    """
    nodes: dict[str, NodeProto] = {}
    weights: dict[str, TensorProto] = {}
    inputs: dict[str, onnx.ValueInfoProto] = {}
    outputs, domains, functions = list[onnx.ValueInfoProto](), dict[str, int](), list[onnx.FunctionProto]()
    for name, member in members.items():
        graph = member.model.graph
        if opset_of(member.model) < OPSET:
            raise CardError(
                f"member '{name}' has opset {opset_of(member.model)} and could not be converted to {OPSET}.",
                fix=f"export it again with opset {OPSET}.",
            )
        renamed = _renaming(name, member)
        for tensor in graph.initializer:
            copy = TensorProto()
            copy.CopyFrom(tensor)
            copy.name = renamed(tensor.name)
            weights.setdefault(copy.name, copy)
        for node in graph.node:
            copied = _renamed(node, renamed, name)
            nodes.setdefault(copied.name, copied)
        listed = {tensor.name for tensor in graph.initializer}
        for value in (value for value in graph.input if value.name not in listed):
            inputs.setdefault(renamed(value.name), _sized(_called(value, renamed(value.name)), shapes.get(renamed(value.name), ())))
        outputs += [_called(value, renamed(value.name)) for value in graph.output if value.name in member.outputs]
        for entry in member.model.opset_import:
            domains[entry.domain] = max(domains.get(entry.domain, 0), entry.version)
        functions += [function for function in member.model.functions if function not in functions]
    laid = helper.make_graph(list(nodes.values()), "edgemm", list(inputs.values()), outputs, list(weights.values()))
    version = max(member.model.ir_version for member in members.values())
    return helper.make_model(
        laid, opset_imports=[helper.make_opsetid(domain, number) for domain, number in domains.items()], ir_version=version,
        functions=functions,
    )  # fmt: skip


def join(
    model: onnx.ModelProto, card: Card, parameters: Mapping[str, Mapping[str, np.ndarray]], widths: Mapping[str, int]
) -> onnx.ModelProto:
    """``model``, as ``lay_together`` gives it, with the joints of ``card.joint`` behind it; its outputs are the card's.

    Args:
        parameters: Head -> what was fitted, as ``joint_ops.parameters`` names it.
        widths: Head -> how many labels or numbers it answers with.
    """
    assert card.joint is not None  # the caller made it
    fused = onnx.ModelProto()
    fused.CopyFrom(model)
    graph = fused.graph
    own = {value.name: value for value in graph.output}
    del graph.output[:]
    for name in card.outputs:
        head = card.joint.heads.get(name)
        if head is None:  # a state that a member carries
            mine = next(one for one in own if state_name(*one.split("/", 1)) == name)
            graph.node.append(helper.make_node("Identity", [mine], [name], f"{JOINT}/{name}"))
            graph.output.append(_called(own[mine], name))
            continue
        width = widths[name]
        builder = _Builder(graph, name)
        task = card.outputs[name].task
        constants = {**parameters[name], **joint_ops.constants(head, task, width)}
        k = {key: builder.constant(key, value) for key, value in constants.items()}
        ops = Onnx(builder)
        parts = [
            joint_ops.evidence(ops, task, Tensor(builder, answer_name(member, output)), k, head, member, width)
            for member, output in head.members.items()
        ]
        answer = joint_ops.joined(ops, task, parts, k, head, width)
        graph.node.append(helper.make_node("Identity", [answer.name], [name], f"{JOINT}/{name}/answer"))
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH, width]))
    read = {name for node in graph.node for name in node_inputs(node)}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return fused


def joint_nodes(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that compute evidence and joints: they stay in float, since what is missing is told by its value there."""
    return [node.name for node in model.graph.node if node.name.startswith(f"{JOINT}/") or _scope(node).startswith(f"{JOINT}.")]


def _scope(node: NodeProto) -> str:
    """The first module around a node that the exporter named with more than one word."""
    told = next((prop.value for prop in node.metadata_props if prop.key == SCOPES), "[]")
    return next((scope for scope in ast.literal_eval(told) if scope.startswith(f"{JOINT}.")), "")


def head_parameters(model: onnx.ModelProto, head: str) -> dict[str, np.ndarray]:
    """Calibration of a head as a graph holds it: ``scale`` and ``shift``, (1, subsets, 1, width); without what the graph lacks."""
    wanted = {f"{JOINT}.{head}.{key}": key for key in ("scale", "shift")}
    return {wanted[t.name]: numpy_helper.to_array(t) for t in model.graph.initializer if t.name in wanted}


def with_parameters(model: onnx.ModelProto, head: str, parameters: Mapping[str, np.ndarray]) -> None:
    """Set a head's ``scale`` and ``shift`` in a graph; in place."""
    for tensor in model.graph.initializer:
        key = tensor.name.removeprefix(f"{JOINT}.{head}.")
        if key in parameters and key != tensor.name:
            tensor.CopyFrom(numpy_helper.from_array(parameters[key].astype(np.float32), tensor.name))


@dataclass(frozen=True)
class Tensor:
    """A tensor of the graph that is built; ``+``, ``-`` and ``*`` make nodes."""

    builder: _Builder
    name: str
    shape: tuple[int, ...] = ()  # of constants alone

    def __add__(self, other: Tensor) -> Tensor:
        return self.builder.node("Add", self, other)

    def __sub__(self, other: Tensor) -> Tensor:
        return self.builder.node("Sub", self, other)

    def __mul__(self, other: Tensor) -> Tensor:
        return self.builder.node("Mul", self, other)


class Onnx:
    """``joint_ops.Ops`` that make nodes."""

    def __init__(self, builder: _Builder) -> None:
        self._builder = builder

    def exp(self, x: Tensor) -> Tensor:
        return self._builder.node("Exp", x)

    def log(self, x: Tensor) -> Tensor:
        return self._builder.node("Log", x)

    def clip(self, x: Tensor, low: float, high: float) -> Tensor:
        return self._builder.node("Clip", x, self._builder.number(low), self._builder.number(high))

    def sum(self, x: Tensor, axis: int) -> Tensor:
        return self._reduced("ReduceSum", x, axis)

    def max(self, x: Tensor, axis: int) -> Tensor:
        return self._reduced("ReduceMax", x, axis)

    def min(self, x: Tensor, axis: int) -> Tensor:
        return self._reduced("ReduceMin", x, axis)

    def log_softmax(self, x: Tensor) -> Tensor:
        return self._builder.node("LogSoftmax", x, axis=-1)

    def above(self, x: Tensor, limit: float) -> Tensor:
        return self._builder.node("Cast", self._builder.node("Greater", x, self._builder.number(limit)), to=TensorProto.FLOAT)

    def reshape(self, x: Tensor, *sizes: int) -> Tensor:
        return self._builder.node("Reshape", x, self._builder.integers(-1, *sizes))

    def concat(self, parts: Sequence[Tensor]) -> Tensor:
        return self._builder.node("Concat", *parts, axis=1)

    def _reduced(self, kind: str, x: Tensor, axis: int) -> Tensor:
        return self._builder.node(kind, x, self._builder.integers(axis), keepdims=1)


class _Builder:
    """Adds a joint's nodes and constants to a graph."""

    def __init__(self, graph: onnx.GraphProto, head: str) -> None:
        self._graph, self._head, self._count = graph, head, 0
        self._known: dict[str, Tensor] = {}

    def constant(self, key: str, value: np.ndarray) -> Tensor:
        name = f"{JOINT}.{self._head}.{key}"
        if name not in self._known:
            self._graph.initializer.append(numpy_helper.from_array(value, name))
            self._known[name] = Tensor(self, name, value.shape)
        return self._known[name]

    def number(self, value: float) -> Tensor:
        return self.constant(f"number {value:g}", np.array(value, np.float32))

    def integers(self, *values: int) -> Tensor:
        return self.constant(f"sizes {' '.join(map(str, values))}", np.array(values, np.int64))

    def node(self, kind: str, *inputs: Tensor, **attributes: Any) -> Tensor:
        self._count += 1
        name = f"{JOINT}/{self._head}/{self._count}_{kind}"
        self._graph.node.append(helper.make_node(kind, [tensor.name for tensor in inputs], [name], name, **attributes))
        return Tensor(self, name)


def _renaming(name: str, member: Member) -> Callable[[str], str]:
    """Old name -> name in the fused graph, for tensors and nodes alike."""
    fronts = {f"{FRONTEND}{own}/": f"{FRONTEND}{fused}/" for own, fused in member.inputs.items()}

    def renamed(old: str) -> str:
        if not old or old in member.inputs:
            return member.inputs.get(old, old)
        front = next((prefix for prefix in fronts if old.startswith(prefix)), None)
        return f"{name}/{old}" if front is None else fronts[front] + old.removeprefix(front)

    return renamed


def _renamed(node: NodeProto, renamed: Callable[[str], str], member: str) -> NodeProto:
    """A copy of a node with other names, in its bodies too."""
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.name = renamed(node.name)
    for names in (copy.input, copy.output):
        names[:] = [renamed(name) for name in names]
    for prop in copy.metadata_props:
        if prop.key == SCOPES:
            prop.value = repr([f"{member}.{scope}" for scope in ast.literal_eval(prop.value)])
    for attribute in copy.attribute:
        for body in _bodies(attribute):
            inner = [_renamed(one, renamed, member) for one in body.node]
            del body.node[:]
            body.node.extend(inner)
            for value in (*body.input, *body.output, *body.initializer, *body.value_info):
                value.name = renamed(value.name)
    return copy


def _bodies(attribute: AttributeProto) -> Iterator[onnx.GraphProto]:
    yield from [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs


def _sized(value: onnx.ValueInfoProto, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    """``value`` with the card's sizes for its open axes; in place."""
    dims = value.type.tensor_type.shape.dim
    for dim, size in zip(dims, shape, strict=False) if len(dims) == len(shape) else ():
        if dim.HasField("dim_value"):
            continue
        if isinstance(size, int):
            dim.dim_value = size
        else:
            dim.dim_param = size
    return value


def _called(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(value)
    copy.name = name
    return copy
