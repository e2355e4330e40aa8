"""What each layer of a graph has to do: operations, weights read, values moved. What a runtime fuses into a layer is counted with it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from edgemm.contracts.card import Card
from edgemm.contracts.layer_work import LayerWork
from edgemm.contracts.modality import input_specs
from edgemm.contracts.specs import BATCH
from edgemm.graph import files
from edgemm.graph.branches import find_branches, node_inputs
from edgemm.graph.costs import QUANTIZED_AT, macs_of, parameters_of, tensor_shapes
from edgemm.graph.packed_weights import unpacked

RECURRENT = ("LSTM", "GRU", "RNN")
OWN = (
    *RECURRENT, "Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "Attention", "LayerNormalization", "InstanceNormalization",
    "GroupNormalization", "Softmax", "LogSoftmax", "ReduceMean", "ReduceSum", "ReduceMax", "GlobalAveragePool", "GlobalMaxPool",
    "AveragePool", "MaxPool", "Gather", "Resize", "Concat", "TopK",
)  # fmt: skip
"""Operators that every runtime starts by themselves; activations, additions, reshapes, Q/DQ are fused into their neighbours."""


def layers(path: Path, card: Card | None) -> list[LayerWork]:
    """The layers of an ONNX file for one sample, float or with Q/DQ, in the order of the graph."""
    model, _ = unpacked(files.load(path))
    branches = find_branches(model, card)
    sizes = {spec.name: tuple(1 if size == BATCH else size for size in spec.shape) for spec in input_specs(card)} if card else {}
    shapes = tensor_shapes(model, sizes)
    weights = _weights(model)
    constant = _constants(model)
    work = []
    for node in model.graph.node:
        if node.op_type in OWN and not all(name in constant for name in node_inputs(node)):
            macs = macs_of(node, shapes)
            read = [name for name in node_inputs(node) if name not in constant]
            moved = sum(math.prod(shapes[name]) for name in (*read, node.output[0]) if name in shapes)
            work.append(
                LayerWork(
                    branches.row_of(node.name), macs, weights.get(node.name, 0), moved, launches=_launches(node, shapes),
                    quantizable=node.op_type in QUANTIZED_AT and node.name not in branches.frontend,
                )
            )  # fmt: skip
    return work


def _launches(node: onnx.NodeProto, shapes: Mapping[str, Sequence[int]]) -> int:
    """A recurrent layer starts anew at every step."""
    return max(1, shapes[node.input[0]][0]) if node.op_type in RECURRENT and node.input[0] in shapes else 1


def _weights(model: onnx.ModelProto) -> dict[str, int]:
    weights: dict[str, int] = {}
    for tensor, user, _ in parameters_of(model):
        if user.op_type == "Gather":
            continue  # of a table it reads only the rows it gives
        weights[user.name] = weights.get(user.name, 0) + math.prod(tensor.dims)
    return weights


def _constants(model: onnx.ModelProto) -> set[str]:
    constants = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if all(name in constants for name in node_inputs(node)):
            constants.update(node.output)
    return constants
