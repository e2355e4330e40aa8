"""Graphs that compute in half or double precision, read as float32: quantizers and runtimes take no other float type for granted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, TypeProto, helper, numpy_helper

OTHERS: dict[int, str] = {TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16", TensorProto.DOUBLE: "float64"}
TYPE_ATTRIBUTES = ("to", "dtype", "output_datatype", "output_dtype", "softmax_precision", "stash_type")
"""Attributes that name an element type."""


def to_single(model: ModelProto) -> list[str]:
    """Make every float16 and bfloat16 of a graph and the bodies in it float32, in place; float64 too, unless only a few numbers are.

    Returns:
        The types that were there, by name: ["float16"]; [] where nothing changed.
    """
    kinds: set[int] = set()
    _convert_graph(model.graph, set(OTHERS) if _is_double(model.graph) else set(OTHERS) - {TensorProto.DOUBLE}, kinds)
    return sorted(OTHERS[kind] for kind in kinds)


def cast_outputs(model: ModelProto, kinds: Mapping[str, int]) -> None:
    """Hand outputs out in the types that ``kinds`` names, behind a Cast, in place."""
    graph = model.graph
    for value in graph.output:
        if kinds.get(value.name, TensorProto.FLOAT) != value.type.tensor_type.elem_type:
            inner = f"{value.name}/float32"
            rename_tensor(graph, value.name, inner)
            graph.node.append(helper.make_node("Cast", [inner], [value.name], f"{value.name}/Cast", to=kinds[value.name]))
            value.type.tensor_type.elem_type = kinds[value.name]


def rename_tensor(graph: GraphProto, old: str, new: str) -> None:
    """Call a tensor that a node of ``graph`` makes ``new``, where it is made and wherever it is read."""
    for node in graph.node:
        for names in (node.input, node.output):
            for slot, name in enumerate(names):
                if name == old:
                    names[slot] = new
        for body in bodies(node):
            rename_tensor(body, old, new)


def bodies(node: onnx.NodeProto) -> Iterator[GraphProto]:
    """The graphs in a node's attributes: of If, Loop and Scan."""
    for attribute in node.attribute:
        yield from [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs


def _is_double(graph: GraphProto) -> bool:
    """Whether it takes float64, or has weights of it: a single number is a constant that an exporter left so."""
    ends = [value.type.tensor_type.elem_type for value in graph.input]
    constants = [entry.t for node in graph.node if node.op_type == "Constant" for entry in node.attribute if entry.name == "value"]
    return TensorProto.DOUBLE in [*ends, *(tensor.data_type for tensor in (*graph.initializer, *constants) if len(tensor.dims) > 1)]


def _convert_graph(graph: GraphProto, others: set[int], kinds: set[int]) -> None:
    for tensor in graph.initializer:
        _convert_tensor(tensor, others, kinds)
    for sparse in graph.sparse_initializer:
        _convert_tensor(sparse.values, others, kinds)
    for value in [*graph.input, *graph.output, *graph.value_info]:
        _convert_type(value.type, others, kinds)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                _convert_tensor(attribute.t, others, kinds)
            elif attribute.type == AttributeProto.SPARSE_TENSOR:
                _convert_tensor(attribute.sparse_tensor.values, others, kinds)
            elif attribute.type == AttributeProto.INT and attribute.name in TYPE_ATTRIBUTES and attribute.i in others:
                kinds.add(attribute.i)
                attribute.i = TensorProto.FLOAT
            for tensor in attribute.tensors:
                _convert_tensor(tensor, others, kinds)
        for body in bodies(node):
            _convert_graph(body, others, kinds)


def _convert_tensor(tensor: TensorProto, others: set[int], kinds: set[int]) -> None:
    if tensor.data_type in others:
        kinds.add(tensor.data_type)
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))


def _convert_type(kind: TypeProto, others: set[int], kinds: set[int]) -> None:
    match kind.WhichOneof("value"):
        case "tensor_type":
            if kind.tensor_type.elem_type in others:
                kinds.add(kind.tensor_type.elem_type)
                kind.tensor_type.elem_type = TensorProto.FLOAT
        case "sequence_type":
            _convert_type(kind.sequence_type.elem_type, others, kinds)
        case "optional_type":
            _convert_type(kind.optional_type.elem_type, others, kinds)
