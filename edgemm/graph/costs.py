"""What each branch of a graph costs: parameters, multiply-accumulates, and bytes of weights at each precision."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto, shape_inference

from edgemm.contracts.specs import BATCH
from edgemm.graph import files
from edgemm.graph.branches import Branches, node_inputs
from edgemm.graph.packed_weights import unpacked

QUANTIZED_AT = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gemm": (1,),
    "MatMul": (0, 1),
    "Gather": (0,),
}
"""Operator -> its inputs that hold weights which INT8 stores in one byte each. Recurrent layers stay in float (steps/quantize)."""
CHANNEL_AXIS = {"Conv": 0, "ConvTranspose": 1, "Gather": 0}
"""Operator -> the axis of its weight along which INT8 keeps one scale each; the last one elsewhere."""
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
BYTES = (*FLOATS, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4)
QDQ = ("QuantizeLinear", "DequantizeLinear")
PRECISIONS = ("fp32", "fp16", "int8")
FREE_AXIS = 16  # assumed length of an axis other than the batch that the graph leaves open


@dataclass(frozen=True)
class Cost:
    """What one branch, or one input's front-end, costs for one sample.

    Attributes:
        parameters: Trained values; constants of front-ends, scales and zero points are none.
        macs: Multiply-accumulates of convolutions, matrix products and recurrent layers, at batch 1.
        nodes: Operators.
        size_bytes: ``fp32``, ``fp16``, ``int8`` -> bytes of its parameters. int8: weights in one byte and a float scale a channel; the
            rest (biases, norms) stays float. Of a front-end its constants, which no precision makes smaller.
        stored_bytes: What its parameters, or a front-end's constants, take in this very graph.
    """

    parameters: int
    macs: int
    nodes: int
    size_bytes: Mapping[str, int]
    stored_bytes: int


def branch_costs(model: onnx.ModelProto, branches: Branches, sizes: Mapping[str, Sequence[int | str]] | None = None) -> dict[str, Cost]:
    """The cost of every branch and front-end, in the order of ``branches.rows()``. A value that two of them use counts for the first.

    Works on float graphs and on graphs with Q/DQ. Bodies of If, Loop and Scan are not looked into.

    Args:
        sizes: Input -> its shape, where the graph leaves axes open that the card does not (the length of a sound).
    """
    model, packed = unpacked(model)
    shapes = tensor_shapes(model, sizes)
    counts = {name: dict.fromkeys(("parameters", "macs", "nodes", "stored", *PRECISIONS), 0) for name in branches.rows()}
    for node in model.graph.node:
        count = counts[branches.row_of(node.name)]
        count["nodes"] += 1
        count["macs"] += macs_of(node, shapes)
    for tensor, user, slot in parameters_of(model):
        if user.name in branches.frontend:
            continue
        count, size = counts[branches.row_of(user.name)], math.prod(tensor.dims)
        used = shapes.get(node_inputs(user)[slot], tuple(tensor.dims))
        for key, amount in zip(("parameters", *PRECISIONS), (size, 4 * size, 2 * size, _int8_bytes(user, slot, size, used)), strict=True):
            count[key] += amount
        count["stored"] += packed.get(tensor.name, files.tensor_bytes(tensor))
    for row, size in _frontend_bytes(model, branches).items():
        for key in ("stored", *PRECISIONS):
            counts[row][key] += size
    return {
        name: Cost(count["parameters"], count["macs"], count["nodes"], {key: count[key] for key in PRECISIONS}, count["stored"])
        for name, count in counts.items()
    }


def tensor_shapes(model: onnx.ModelProto, sizes: Mapping[str, Sequence[int | str]] | None = None) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors of the top graph at batch 1; those that cannot be derived are left out."""
    frame = files.skeleton(model)
    del frame.graph.value_info[:]
    first = [value.type.tensor_type.shape.dim[0].dim_param for value in frame.graph.input if value.type.tensor_type.shape.dim]
    batch = {BATCH, *first} - {""}
    for value in frame.graph.input:
        shape = (sizes or {}).get(value.name, ())
        for position, dim in enumerate(value.type.tensor_type.shape.dim):
            size = shape[position] if position < len(shape) else ""
            if isinstance(size, int):
                dim.dim_value = size
            elif not dim.HasField("dim_value"):
                dim.dim_value = 1 if position == 0 or dim.dim_param in batch else FREE_AXIS
    del frame.graph.output[:]  # their sizes follow from the inputs'
    frame.graph.output.extend(onnx.helper.make_empty_tensor_value_info(value.name) for value in model.graph.output)
    inferred = shape_inference.infer_shapes(frame, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in frame.graph.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        axes = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(axis.HasField("dim_value") for axis in axes):
            shapes[value.name] = tuple(axis.dim_value for axis in axes)
    return shapes


def parameters_of(model: onnx.ModelProto) -> Iterator[tuple[onnx.TensorProto, onnx.NodeProto, int]]:
    """Every trained constant with the first node that puts it to use, and at which of that node's inputs.

    What only prepares constants (a Q/DQ pair, a cast, the exporter's reordering of a GRU's gates) is looked through.
    """
    users: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
    constant = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        for slot, name in enumerate(node_inputs(node)):
            users.setdefault(name, []).append((node, slot))
        if all(name in constant for name in node_inputs(node)):
            constant.update(node.output)
    for tensor in model.graph.initializer:
        if tensor.data_type in BYTES and tensor.dims:
            first_use = _first_use(tensor.name, users, constant)
            if first_use:
                yield tensor, *first_use


def _frontend_bytes(model: onnx.ModelProto, branches: Branches) -> dict[str, int]:
    """``frontend:<input>`` -> bytes of the constants that it reads."""
    reader = {name: branches.row_of(node.name) for node in model.graph.node if node.name in branches.frontend for name in node.input}
    sizes: dict[str, int] = {}
    for tensor in model.graph.initializer:
        if row := reader.get(tensor.name):
            sizes[row] = sizes.get(row, 0) + files.tensor_bytes(tensor)
    return sizes


def _first_use(
    name: str, users: Mapping[str, list[tuple[onnx.NodeProto, int]]], constant: Collection[str]
) -> tuple[onnx.NodeProto, int] | None:
    for node, slot in users.get(name, ()):
        if node.op_type in QDQ and slot > 0:
            continue  # a scale or a zero point
        use = _first_use(node.output[0], users, constant) if node.output[0] in constant else (node, slot)
        if use:
            return use
    return None


def _int8_bytes(node: onnx.NodeProto, slot: int, size: int, dims: Sequence[int]) -> int:
    """Bytes of ``size`` values that ``node`` reads at input ``slot`` in a tensor of shape ``dims``."""
    if slot not in QUANTIZED_AT.get(node.op_type, ()) or len(dims) < 2:
        return 4 * size
    axis = CHANNEL_AXIS.get(node.op_type, len(dims) - 1)
    if node.op_type == "Gemm" and _attribute(node, "transB"):
        axis = 0
    return size + 4 * dims[axis]


def macs_of(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Multiply-accumulates of one node; 0 for operators without any, and where a shape is not known."""
    input_shapes = [shapes.get(name) for name in node.input]
    out = shapes.get(node.output[0]) if node.output else None
    match node.op_type, input_shapes:
        case "Conv", [_, (_, *kernel), *_] if out is not None:
            return math.prod(out) * math.prod(kernel)
        case "ConvTranspose", [(*into,), (_, *kernel), *_]:
            return math.prod(into) * math.prod(kernel)
        case "MatMul", [(*_, depth), _] if out is not None:
            return math.prod(out) * depth
        case "Gemm", [(rows, columns), *_] if out is not None:
            return math.prod(out) * (rows if _attribute(node, "transA") else columns)
        case (("GRU" | "LSTM" | "RNN"), [(*x,), (*w,), (*r,), *_]):
            steps = x[0] * x[1]
            return steps * (math.prod(w) + math.prod(r))
        case "Einsum", _ if all(shape is not None for shape in input_shapes):
            return _einsum_macs(node, [shape for shape in input_shapes if shape is not None])
    return 0


def _einsum_macs(node: onnx.NodeProto, shapes: Sequence[tuple[int, ...]]) -> int:
    equation = next((a.s.decode() for a in node.attribute if a.name == "equation"), "").replace(" ", "")
    terms = equation.partition("->")[0].split(",")
    if "." in equation or len(terms) < 2:
        return 0
    sizes = {letter: size for term, shape in zip(terms, shapes, strict=True) for letter, size in zip(term, shape, strict=True)}
    return math.prod(sizes.values())


def _attribute(node: onnx.NodeProto, name: str) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), 0)
