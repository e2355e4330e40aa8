"""Which nodes of a graph stay in float because 8 bits would spoil an answer: what follows the last layers with weights, whatever the task.

Scores with their sigmoid or softmax, boxes with their anchors and strides, a mask enlarged to the picture, the place of its largest value.
It is found from the structure, never by name. None of it multiplies by weights, so INT8 gains little there; the layers themselves are INT8.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx

from edgemm.graph import placement
from edgemm.graph.branches import SIZE_OPS, WEIGHTED, node_inputs
from edgemm.graph.qdq_pairs import MOVING, PAIR, Wiring

SCALING = (*MOVING, *PAIR, "Add", "Sub", "Mul", "Div", "Where", "Max", "Min")
"""What stands between a product of queries and keys and its softmax: a scale, a mask."""
ROWS = 3  # axes of an answer that has one row for each query: batch, queries, numbers
FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


def float_tail(model: onnx.ModelProto) -> set[str]:
    """Names of the nodes that stay float.

    A product by constants that reads a softmax is no layer: it is an expectation over bins, as distribution focal loss decodes a distance
    (Conv, MatMul or Mul and ReduceSum), or over places. Where answers are rows of a set, all that follows the choice of rows stays float
    too, layers included, and what the choice is made by: a TopK, or, with learned queries, the first attention of constants to what
    depends on an input. So does what a GridSample reads its places from.
    """
    graph = _Graph(model)
    names = graph.names(graph.after_layers())
    shapes = placement.sizes(model) if graph.may_be_set() else {}
    for index, rows in graph.choices(shapes):
        followers = graph.followers(index)
        if graph.answers_rows(followers, rows, shapes):
            names |= graph.names({index, *followers, *graph.before(graph.reads[index])})
    for index, node in enumerate(graph.nodes):
        if node.op_type == "GridSample" and graph.varies(node.input[1]):
            names |= graph.names({index, *graph.before([node.input[1]])})
    return names


def layers_in_tail(model: onnx.ModelProto) -> set[str]:
    """Names of the layers that stay float: those that work on the rows of a set."""
    graph = _Graph(model)
    return float_tail(model) & graph.names(graph.layers)


def means_over_bins(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Products of a softmax by constants, in graph order."""
    graph = _Graph(model)
    return [
        node
        for node in graph.nodes
        if node.op_type in ("Conv", "MatMul") and graph.is_share(node.input[0]) and not graph.varies(node.input[1])
    ]


class _Graph:
    """Who follows whom, and which nodes are layers."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.wiring = Wiring(model)
        self.nodes = list(model.graph.node)
        self.reads = [node_inputs(node) for node in self.nodes]
        self.maker = {name: index for index, node in enumerate(self.nodes) for name in node.output if name}
        self.users: dict[str, list[int]] = {}
        for index, names in enumerate(self.reads):
            for name in names:
                self.users.setdefault(name, []).append(index)
        self._changing = {value.name for value in model.graph.input} - set(self.wiring.constants)
        for node, names in zip(self.nodes, self.reads, strict=True):
            if node.op_type not in SIZE_OPS and not self._changing.isdisjoint(names):
                self._changing |= set(node.output) - {""}
        self.layers = {index for index, node in enumerate(self.nodes) if self._is_layer(node)}

    def names(self, indices: Iterable[int]) -> set[str]:
        return {self.nodes[index].name for index in indices}

    def varies(self, name: str) -> bool:
        """Whether a tensor depends on an input's values."""
        return name in self._changing

    def after_layers(self) -> set[int]:
        """Nodes behind which no layer comes. A residual sum that a layer reads too is none of them: its network goes on."""
        tail: set[int] = set()
        for index in range(len(self.nodes) - 1, -1, -1):
            if index not in self.layers and all(user in tail for user in self._next(index)):
                tail.add(index)
        return tail

    def may_be_set(self) -> bool:
        """Whether there is anything that could choose rows."""
        return any(node.op_type in ("TopK", "MatMul") for node in self.nodes)

    def choices(self, shapes: dict[str, tuple[int | None, ...]]) -> Iterator[tuple[int, int | None]]:
        """Nodes that make or choose rows which layers then work on, and how many rows; None where that is open."""
        for index, node in enumerate(self.nodes):
            if node.op_type == "TopK":
                count = self.wiring.constant(node.input[1])
                yield index, None if count is None else int(count.reshape(-1)[0])
            elif node.op_type == "MatMul" and not self.varies(node.input[0]) and self.varies(node.input[1]):
                queries = shapes.get(node.input[0], ())
                if len(queries) >= ROWS - 1 and self._is_attention(index):
                    yield index, queries[-2]

    def followers(self, index: int) -> set[int]:
        """Every node that depends on one."""
        found: set[int] = set()
        waiting = [index]
        while waiting:
            fresh = {user for user in self._next(waiting.pop()) if self.nodes[user].op_type not in SIZE_OPS} - found
            found |= fresh
            waiting.extend(fresh)
        return found

    def answers_rows(self, followers: set[int], rows: int | None, shapes: dict[str, tuple[int | None, ...]]) -> bool:
        """Whether a graph output behind ``followers`` has one row for each that was chosen, and layers work on them before."""
        if self.layers.isdisjoint(followers):
            return False  # then all of them come after the last layers
        outputs = [name for index in followers for name in self.nodes[index].output if name in self.wiring.outputs]
        known = [shapes.get(name, ()) for name in outputs]
        return any(not shape or (len(shape) >= ROWS and (rows is None or not {rows, None}.isdisjoint(shape[1:]))) for shape in known)

    def before(self, tensors: Iterable[str]) -> set[int]:
        """Nodes between the last layers and ``tensors``."""
        found: set[int] = set()
        waiting = list(tensors)
        while waiting:
            index = self.maker.get(waiting.pop())
            if index is not None and index not in self.layers and index not in found:
                found.add(index)
                waiting.extend(self.reads[index])
        return found

    def _next(self, index: int) -> set[int]:
        return {user for name in self.nodes[index].output for user in self.users.get(name, ())}

    def _is_layer(self, node: onnx.NodeProto) -> bool:
        """Whether a node multiplies what changes by trained weights, or looks it up in a table of them."""
        factors = [name for name in node.input[:2] if name]
        if node.op_type == "Gather":
            return self._is_table(node.input[0]) and self.varies(node.input[1])
        if node.op_type not in WEIGHTED or all(self.varies(name) for name in factors):
            return False
        return not any(self.varies(name) and self.is_share(name) for name in factors)

    def _is_table(self, name: str) -> bool:
        """Whether a tensor is a constant of rows of floats, stored in integers or not."""
        dequantize = self.wiring.maker.get(name)
        stored = self.wiring.constants.get(name if dequantize is None else dequantize.input[0])
        is_float = dequantize is not None or (stored is not None and stored.data_type in FLOATS)
        return stored is not None and len(stored.dims) == 2 and is_float

    def is_share(self, name: str) -> bool:
        """Whether a tensor is the result of a softmax, moved or quantized at most."""
        node = self.wiring.maker.get(name)
        if node is None or node.op_type not in ("Softmax", *MOVING, *PAIR):
            return False
        return node.op_type == "Softmax" or self.is_share(node.input[0])

    def _is_attention(self, index: int) -> bool:
        """Whether a softmax is taken of a product, scaled and masked at most."""
        for user in self._next(index):
            kind = self.nodes[user].op_type
            if kind == "Softmax" or (kind in SCALING and self._is_attention(user)):
                return True
        return False
