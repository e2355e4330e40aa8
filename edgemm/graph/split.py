"""The graph in parts: each input's branch by itself, and the rest. So that a branch runs at its own rate, or is left out.

The parts meet at the cuts (``branches.cut``). In a quantized graph a cut lies before the QuantizeLinear, so that parts exchange floats, the
pair stays whole inside the rest, and the cut bears the name it has in the float graph: one stand-in serves both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgemm.contracts.card import Card
from edgemm.errors import ExportError
from edgemm.graph import files
from edgemm.graph.branches import SIZE_OPS, find_branches, groups, node_inputs

PAIR = ("QuantizeLinear", "DequantizeLinear")
SUFFIX = "/cut"


@dataclass(frozen=True)
class Split:
    """A model in parts.

    Attributes:
        branches: Input -> the graph from that input (and its mask), front-end included, to its cut tensors. An input that the fusion
            reads as it is has none: ``rest`` takes it.
        rest: Cut tensors (and inputs without a branch, states, constants) -> every output of the model.
        cuts: Input -> names of the tensors in which its branch ends, as ``rest`` calls them: the graph's own names, with ``/cut`` where
            the tensor is also an input or output of the model; [] where no output depends on the input.
    """

    branches: Mapping[str, onnx.ModelProto]
    rest: onnx.ModelProto
    cuts: Mapping[str, list[str]]


def split(model: onnx.ModelProto, card: Card | None = None, *, like: onnx.ModelProto | None = None) -> Split:
    """Take a float or quantized graph apart at its cuts. Initializers that two parts read are in both.

    Args:
        like: The float graph a quantized one was made of: it still knows the shapes of the cut tensors, which quantizers forget.

    Raises:
        ExportError: A part needs the size of another part's tensor, and none of its own inputs has that size; names the node.
    """
    graph = _Graph(model, card, like)
    graph_branches = find_branches(model, card)
    cuts = {name: graph.before_pairs(tensors) for name, tensors in graph_branches.cuts.items()}
    direct = {name for name, tensors in cuts.items() if set(tensors) <= graph.inputs.keys()}
    free = {i for i, group in graph.group.items() if group is None or group in direct}
    outputs = [value.name for value in model.graph.output]
    for name in graph.missing(outputs, free.union(*cuts.values())):  # a state that one branch computes by itself
        cuts[graph_branches.of_node[graph.nodes[graph.maker[name]].name]].append(name)
    cut_faces = {t: t + SUFFIX if t in graph.inputs or t in outputs else t for name in cuts if name not in direct for t in cuts[name]}
    rest, read = graph.part("rest", dict(zip(outputs, outputs, strict=True)), free, cut_faces)
    branches = {}
    for name, tensors in cuts.items():
        faces = {tensor: cut_faces[tensor] for tensor in tensors if tensor in read}
        if faces:
            own = {i for i, group in graph.group.items() if group in (name, None)}
            branches[name] = graph.part(name, faces, own, {})[0]
        cuts[name] = list(faces.values()) if name not in direct else tensors
    return Split(branches, rest, cuts)


def between(model: onnx.ModelProto, begins: Iterable[str], ends: Iterable[str]) -> onnx.ModelProto:
    """The nodes that make ``ends`` of the tensors ``begins`` and constants.

    Raises:
        ExportError: They need more than that.
    """
    graph = _Graph(model, None, None)
    begins, ends = list(begins), list(ends)
    if more := graph.missing(ends, set(begins)):
        raise ExportError(f"'{more[0]}' is made of more than {', '.join(begins)}.", fix="leave the graph whole.")
    return graph.part("between", {name: name for name in ends}, set(), {name: name for name in begins})[0]


class _Graph:
    """One model, and cutting parts out of it."""

    def __init__(self, model: onnx.ModelProto, card: Card | None, like: onnx.ModelProto | None) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.reads = [node_inputs(node) for node in self.nodes]
        self.maker = {name: index for index, node in enumerate(self.nodes) for name in node.output if name}
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self.inputs = {value.name: value for value in model.graph.input if value.name not in self.weights}
        self.group = groups(self.inputs, card)
        self.types = _types(model, like)

    def before_pairs(self, tensors: Iterable[str]) -> list[str]:
        """The tensors as they were before quantizing, each once."""
        originals = []
        for name in tensors:
            while (index := self.maker.get(name)) is not None and self.nodes[index].op_type in PAIR:
                if self.nodes[index].input[0] in self.weights:
                    break
                name = self.nodes[index].input[0]
            originals.append(name)
        return list(dict.fromkeys(originals))

    def missing(self, ends: Iterable[str], sources: set[str]) -> list[str]:
        """Those of ``ends`` that cannot be computed of ``sources`` and constants."""
        able = self._computable(sources)
        return [name for name in ends if name not in able]

    def part(self, title: str, ends: Mapping[str, str], inputs: set[str], cut_faces: Mapping[str, str]) -> tuple[onnx.ModelProto, set[str]]:
        """The nodes that make ``ends``.

        Args:
            ends: Tensors to make -> what they are called at this part's face.
            inputs: Graph inputs it may take.
            cut_faces: Tensors it is given -> what they are called at its face.

        Returns:
            The part, and which of ``cut_faces`` it takes.
        """
        nodes, read, foreign = self._collect(ends, cut_faces, self._computable({*inputs, *cut_faces}))
        faces = {name: face for name, face in cut_faces.items() if name in read}
        allowed = [name for name in self.inputs if name in inputs and name not in cut_faces]
        sizes = _Sizes(self.types, [*faces, *allowed], title)
        body = [helper.make_node("Identity", [face], [name], name=face) for name, face in faces.items() if face != name]
        for index in sorted(nodes):
            body += sizes.instead_of(self.nodes[index]) if index in foreign else [self.nodes[index]]
        body += [helper.make_node("Identity", [name], [face], name=face) for name, face in ends.items() if face != name]
        produced = {name for node in body for name in node.output}
        graph = helper.make_graph(
            body, f"{self.model.graph.name}/{title}",
            [*(self._face(name) for name in allowed if name in read | sizes.read), *(self._face(*pair) for pair in faces.items())],
            [self._face(*pair) for pair in ends.items()],
            [*(tensor for name, tensor in self.weights.items() if name in read), *sizes.constants],
            value_info=[value for value in self.model.graph.value_info if value.name in produced - set(ends.values())],
        )  # fmt: skip
        model = self.model
        return helper.make_model(
            graph, opset_imports=model.opset_import, ir_version=model.ir_version, functions=model.functions,
            producer_name=model.producer_name, producer_version=model.producer_version,
        ), set(faces)  # fmt: skip

    def _computable(self, sources: set[str]) -> set[str]:
        """Every tensor that can be computed of ``sources`` and constants; sizes of whatever tensor count among those."""
        able = {*sources, *self.weights}
        for node, names in zip(self.nodes, self.reads, strict=True):
            if node.op_type in SIZE_OPS or able.issuperset(names):
                able.update(node.output)
        return able

    def _collect(self, ends: Iterable[str], cut_faces: Mapping[str, str], able: set[str]) -> tuple[set[int], set[str], set[int]]:
        """What ``ends`` need: nodes, the tensors they read, and those nodes that tell a size of a tensor that is not here."""
        nodes, foreign, read = set[int](), set[int](), set[str]()
        waiting = list(ends)
        while waiting:
            name = waiting.pop()
            index = self.maker.get(name)
            if name not in read and index is not None and name not in cut_faces:
                nodes.add(index)
                if self.nodes[index].op_type in SIZE_OPS and not able.issuperset(self.reads[index]):
                    foreign.add(index)
                else:
                    waiting += self.reads[index]
            read.add(name)
        return nodes, read, foreign

    def _face(self, tensor: str, name: str = "") -> onnx.ValueInfoProto:
        """The declaration of an input or output of a part."""
        if tensor not in self.types:
            raise ExportError(
                f"the graph cannot be split: nobody knows the type of the tensor '{tensor}'.",
                why="a branch ends in it, and its operator is not one of ONNX's own.",
                fix="write its type into the graph's value_info.",
            )
        face = onnx.ValueInfoProto()
        face.CopyFrom(self.types[tensor])
        face.name = name or tensor
        return face


class _Sizes:
    """Sizes that a part reads of tensors it does not have, read of its own inputs instead.

    Attributes:
        constants: Initializers the new nodes need.
        read: Own inputs that were read.
    """

    def __init__(self, types: Mapping[str, onnx.ValueInfoProto], inputs: Sequence[str], title: str) -> None:
        self._types, self._inputs, self._title = types, inputs, title
        self.constants: list[onnx.TensorProto] = []
        self.read: set[str] = set()

    def instead_of(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Nodes that make what ``node`` (Shape or Size) makes.

        Raises:
            ExportError: A size is not known, or no input of this part has it.
        """
        sizes = _sizes(self._types.get(node.input[0]))
        fixed_sizes = [size for size in sizes or () if isinstance(size, int)]
        if sizes is None or (node.op_type == "Size" and len(fixed_sizes) < len(sizes)):
            raise self._refused(node, "its sizes are not known")
        if node.op_type == "Size":
            self.constants.append(numpy_helper.from_array(np.array(np.prod(fixed_sizes, dtype=np.int64)), f"{node.output[0]}_known"))
            return [helper.make_node("Identity", [self.constants[-1].name], list(node.output), name=f"{node.name}_own")]
        chosen = {attribute.name: attribute.i for attribute in node.attribute}
        result_sizes = sizes[chosen.get("start", 0) : chosen.get("end", len(sizes))]
        nodes: list[onnx.NodeProto] = []
        parts = [self._one(node, position, size, nodes) for position, size in enumerate(result_sizes)]
        return [*nodes, helper.make_node("Concat", parts, list(node.output), name=f"{node.name}_own", axis=0)]

    def _one(self, node: onnx.NodeProto, position: int, size: int | str, nodes: list[onnx.NodeProto]) -> str:
        """The name of a tensor (1,) holding ``size``."""
        name = f"{node.output[0]}_{position}"
        if isinstance(size, int):
            self.constants.append(numpy_helper.from_array(np.array([size], np.int64), name))
            return name
        own = next((own for own in self._inputs if size in (_sizes(self._types.get(own)) or ())), None)
        if own is None:
            raise self._refused(node, f"no input of this part has the size '{size}'")
        self.read.add(own)
        axis = (_sizes(self._types[own]) or []).index(size)
        self.constants.append(numpy_helper.from_array(np.array([axis], np.int64), f"{name}_axis"))
        nodes.append(helper.make_node("Shape", [own], [f"{name}_all"], name=f"{name}_Shape"))
        nodes.append(helper.make_node("Gather", [f"{name}_all", f"{name}_axis"], [name], name=f"{name}_Gather"))
        return name

    def _refused(self, node: onnx.NodeProto, why: str) -> ExportError:
        return ExportError(
            f"the graph cannot be split: '{self._title}' reads the size of '{node.input[0]}' at node '{node.name}'.",
            why=f"that tensor belongs to another part, and {why}.",
            fix="take the size from what the branches return, in the model's forward().",
        )


def _types(model: onnx.ModelProto, like: onnx.ModelProto | None) -> dict[str, onnx.ValueInfoProto]:
    """Type and shape of every tensor of the main graph, where they are known.

    ``like`` knows better than what can be inferred, but a tensor of its name may be another one (a graph exported anew): then it differs.
    """
    types: dict[str, onnx.ValueInfoProto] = {}
    for source in (_inferred(model), model):
        types |= _told(source)
    for name, value in _told(like).items() if like is not None else ():
        if name not in types or _agree(types[name], value):
            types[name] = value
    return types


def _told(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    values = [*model.graph.value_info, *model.graph.output, *model.graph.input]
    return {value.name: value for value in values if value.type.ByteSize()}


def _agree(one: onnx.ValueInfoProto, other: onnx.ValueInfoProto) -> bool:
    """Whether both can be the same tensor: element type, rank, and every size that both know."""
    if one.type.tensor_type.elem_type != other.type.tensor_type.elem_type:
        return False
    first, second = _sizes(one), _sizes(other)
    if first is None or second is None:
        return True
    size_pairs = [(a, b) for a, b in zip(first, second, strict=False) if isinstance(a, int) and isinstance(b, int)]
    return len(first) == len(second) and all(a == b for a, b in size_pairs)


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(files.skeleton(model), data_prop=True)
    except Exception:  # onnx raises several kinds for operators of vendors; what it could not tell is asked for later, by name
        return onnx.ModelProto()


def _sizes(value: onnx.ValueInfoProto | None) -> list[int | str] | None:
    if value is None or not value.type.tensor_type.HasField("shape"):
        return None
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"?{axis}" for axis, dim in enumerate(dims)]
