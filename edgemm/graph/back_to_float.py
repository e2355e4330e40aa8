"""Parts of a Q/DQ graph back in float, without calibrating anew: what is left is quantized as before.

Ranges are found layer by layer, each from the float model's values; so a graph in which some layers were reverted is what quantizing
with those layers left alone would have made, at a hundredth of the time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from edgemm.graph.branches import FRONTEND, WEIGHTED, Branches, drop_dead
from edgemm.graph.packed_weights import is_packed, packed_nodes
from edgemm.graph.smoothing import NORM, SMOOTHED

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
FLOAT_NAME = "{}/float"


def revert(quantized: onnx.ModelProto, floats: onnx.ModelProto, nodes: Collection[str]) -> onnx.ModelProto:
    """A copy of ``quantized`` in which ``nodes`` read float values and float weights again.

    Args:
        floats: The graph that was quantized, with the same node names. Where it holds Q/DQ itself (a trained one), its weights
            stay on their grid and only the activations become float.
        nodes: Names of nodes; those the graph lacks are passed over.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(quantized)
    work = _Reverting(copy, floats)
    before = {node.name: node for node in floats.graph.node}
    for node in list(copy.graph.node):
        if node.name in nodes and node.name in before and node.op_type not in (QUANTIZE, DEQUANTIZE):
            work.revert(node, before[node.name])
    work.free_outputs(set(nodes))
    drop_dead(copy)
    return copy


def int8_layers(quantized: onnx.ModelProto) -> list[str]:
    """Names of the layers with weights that read dequantized values, or packed weights, in topological order."""
    dequantized = {name for node in quantized.graph.node if node.op_type == DEQUANTIZE for name in node.output}
    layers = [node for node in quantized.graph.node if node.op_type in (*WEIGHTED, "Gather") and dequantized & set(node.input)]
    names = {node.name for node in (*layers, *packed_nodes(quantized))}
    return [node.name for node in quantized.graph.node if node.name in names]


def quantized_readers(quantized: onnx.ModelProto) -> list[str]:
    """Names of the nodes that read dequantized values, weights or not, in topological order: what ``revert`` can free of pairs."""
    dequantized = {name for node in quantized.graph.node if node.op_type == DEQUANTIZE for name in node.output}
    readers = (node for node in quantized.graph.node if node.op_type not in (QUANTIZE, DEQUANTIZE))
    return [node.name for node in readers if is_packed(node) or dequantized & set(node.input)]


def groups(branch: str, branches: Branches, layers: Sequence[str], most: int) -> dict[str, list[str]]:
    """A branch in pieces: each INT8 layer with what follows it up to the next one, named by that layer.

    Args:
        branches: Of the float graph.
        layers: ``int8_layers`` of the quantized one.
        most: More pieces than that are joined with their neighbours.
    """
    layer_names, pieces = set(layers), dict[str, list[str]]()
    first: list[str] = []  # what comes before the first layer goes with it
    current = first
    for name in (name for name in branches.nodes(branch) if name not in branches.frontend):
        if name in layer_names:
            current = pieces[name] = current if current is first and not pieces else []
        current.append(name)
    each = -(-len(pieces) // most) if pieces else 1
    names = list(pieces)
    return {names[at]: [node for name in names[at : at + each] for node in pieces[name]] for at in range(0, len(names), each)}


def body(branches: Branches) -> list[str]:
    """Every node that may be quantized: all but the front-ends."""
    return [name for name in branches.of_node if not name.startswith(FRONTEND)]


class _Reverting:
    """Rewires one graph in place."""

    def __init__(self, model: onnx.ModelProto, floats: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.maker = {name: node for node in self.graph.node for name in node.output if name}
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.norms = {node.output[0]: node for node in floats.graph.node if node.op_type == NORM}
        self.floats = {tensor.name: tensor for tensor in floats.graph.initializer}
        constant_nodes = [node for node in floats.graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"]
        self.floats |= {node.output[0]: node.attribute[0].t for node in constant_nodes}

    def revert(self, node: onnx.NodeProto, before: onnx.NodeProto) -> None:
        if is_packed(node):
            node.op_type, node.domain = before.op_type, before.domain
            del node.input[len(before.input) :]
        for slot, name in enumerate(before.input):
            if slot < len(node.input):
                node.input[slot] = self.weight(name) if name in self.floats else self.unsmoothed(self.source(node.input[slot]), name)
        del node.attribute[:]
        node.attribute.extend(before.attribute)

    def weight(self, name: str) -> str:
        """The name of the float constant ``name`` in the graph; it is put there where the graph holds another under that name."""
        present, original = self.constants.get(name), self.floats[name]
        if present is not None and present.data_type == original.data_type and _same(present, original):
            return name
        if name in self.maker and self.maker[name].op_type == "Constant":
            return name
        free = name if present is None and name not in self.maker else FLOAT_NAME.format(name)
        if free not in self.constants:
            tensor = onnx.TensorProto()
            tensor.CopyFrom(original)
            tensor.name = free
            self.graph.initializer.append(tensor)
            self.constants[free] = self.graph.initializer[-1]
        return free

    def source(self, name: str) -> str:
        """What was quantized and dequantized to ``name``; itself where nothing was, or where only weights were."""
        dequantize = self.maker.get(name)
        if dequantize is None or dequantize.op_type != DEQUANTIZE:
            return name
        quantize = self.maker.get(dequantize.input[0])
        if quantize is None or quantize.op_type != QUANTIZE or quantize.input[0] in self.constants:
            return name
        return self.source(quantize.input[0])

    def unsmoothed(self, name: str, before: str) -> str:
        """Where ``name`` is the balanced form of ``before``, that: its norm is put there again if nothing read it any more."""
        if name != before + SMOOTHED:
            return name
        if before in self.maker:
            return before
        twin, norm = self.maker[name], onnx.NodeProto()
        norm.CopyFrom(self.norms[before])
        del norm.input[:]
        norm.input.append(self.source(twin.input[0]))
        norm.input.extend(self.weight(weight) if weight else "" for weight in self.norms[before].input[1:])
        self.graph.node.insert(list(self.graph.node).index(twin), norm)
        self.maker[before] = norm
        return before

    def free_outputs(self, nodes: Collection[str]) -> None:
        """Graph outputs that are dequantized values of ``nodes`` become those nodes' own values."""
        for name in [value.name for value in self.graph.output]:
            source = self.source(name)
            if source == name or source not in self.maker or self.maker[source].name not in nodes:
                continue
            self.graph.node.remove(self.maker[name])
            for node in self.graph.node:
                for names in (node.input, node.output):
                    for index, entry in enumerate(names):
                        names[index] = name if entry == source else entry


def _same(one: onnx.TensorProto, other: onnx.TensorProto) -> bool:
    return np.array_equal(numpy_helper.to_array(one), numpy_helper.to_array(other))
