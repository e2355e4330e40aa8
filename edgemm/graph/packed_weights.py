"""Weights alone in few bits, activations in float: how a graph says so for each target, and the float graph that such a one stands for.

``operators``: com.microsoft's MatMulNBits and GatherBlockQuantized. ONNX Runtime and OpenVINO 2026.4 keep these weights small in memory and
compute on them as they are; of a block-wise DequantizeLinear both unpack a whole embedding table (ONNX Runtime at every call).
``blocks``: DequantizeLinear with ``block_size``, opset 21: what TensorRT's parser takes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter

from edgemm.graph import files
from edgemm.graph.qdq_pairs import attribute

OPERATORS, BLOCKS = "operators", "blocks"
DOMAIN, MATMUL, TABLE = "com.microsoft", "MatMulNBits", "GatherBlockQuantized"
PACKED = (MATMUL, TABLE)
LEAST_GROUP = 16  # what the operators take
BLOCK_OPSET, BLOCK_IR = 21, 10  # the first with block_size and int4
CHANGED_MEANING = ("GroupNormalization", "GridSample", "DFT", "AffineGrid")
"""Operators that opset 19 to 21 read in another way than 18; of all others only types were added."""
SUFFIX = {"values": "/packed", "scales": "/scales", "floats": "/dequantized"}
SEVERAL_BITS = {TensorProto.INT4: 4, TensorProto.UINT4: 4}


@dataclass(frozen=True)
class Rounded:
    """One layer's weights in few bits.

    Attributes:
        values: int8, shape (output channels or rows of a table, depth); from ``-2**(bits-1)``.
        scales: float32, shape (the same, depth / group); may be negative.
    """

    values: np.ndarray
    scales: np.ndarray
    bits: int

    @property
    def group(self) -> int:
        """Neighbours along the depth that share a scale."""
        return int(self.values.shape[1] // self.scales.shape[1])


def is_packed(node: onnx.NodeProto) -> bool:
    """Whether a node is one of com.microsoft's on packed weights."""
    return node.domain == DOMAIN and node.op_type in PACKED


def weight_slot(node: onnx.NodeProto) -> int | None:
    """Which input of a float layer holds the weights that could be packed; None for other operators, and forms that no target packs."""
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    match node.op_type:
        case "MatMul":
            return 1
        case "Gemm" if not attributes.get("transA") and attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0:
            return 1
        case "Gather" if attributes.get("axis", 0) == 0:
            return 0
    return None


def in_rows(node: onnx.NodeProto, weights: np.ndarray) -> np.ndarray:
    """A layer's weights as (output channels or rows of a table, depth)."""
    return weights if node.op_type == "Gather" or _transposed(node) else weights.T


def write(model: onnx.ModelProto, node: onnx.NodeProto, rounded: Rounded, form: str, *, exact: bool = True) -> None:
    """Let ``node`` read ``rounded`` instead of its float weights; in place. The float weights stay, for ``drop_unread``.

    Args:
        form: ``OPERATORS`` or ``BLOCKS``; for the latter ``finish`` is due when all are written.
        exact: ONNX Runtime computes with activations in float; else it rounds them to 8 bits a block while it multiplies, which is faster.
    """
    if form == BLOCKS:
        _write_block(model, node, rounded)
    elif node.op_type == "Gather":
        _write_table(model, node, rounded)
    else:
        _write_product(model, node, rounded, exact=exact)


def finish(model: onnx.ModelProto, form: str) -> onnx.ModelProto:
    """The graph with the operator sets that its packed weights need; changed in place where that suffices."""
    if form == OPERATORS:
        if not any(entry.domain == DOMAIN for entry in model.opset_import):
            model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
        return model
    main = next(entry for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if main.version < BLOCK_OPSET:
        if any(node.op_type in CHANGED_MEANING for node in model.graph.node):
            model = version_converter.convert_version(model, BLOCK_OPSET)
        else:
            main.version = BLOCK_OPSET
    model.ir_version = max(model.ir_version, BLOCK_IR)
    return model


def unpacked(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, int]]:
    """The float graph that a graph with packed operators stands for, its big weights without data, for names, shapes and counts.

    Returns:
        That graph, or ``model`` itself where nothing is packed; and name of each such weight -> bytes that it really takes.
    """
    if not any(is_packed(node) for node in model.graph.node):
        return model, {}
    frame, stored = files.skeleton(model), dict[str, int]()
    sizes = {tensor.name: (tuple(tensor.dims), files.tensor_bytes(tensor)) for tensor in frame.graph.initializer}
    unread = set[str]()
    for node in frame.graph.node:
        if is_packed(node):
            packed = [name for name in (node.input[0], node.input[2]) if node.op_type == TABLE] or list(node.input[1:3])
            name = f"{node.name}/floats"
            stored[name] = sum(sizes[part][1] for part in packed)
            unread |= {*packed}
            frame.graph.initializer.append(_bare(name, _float_shape(node, sizes)))
            _as_float(node, name)
    kept = [tensor for tensor in frame.graph.initializer if tensor.name not in unread]
    del frame.graph.initializer[:]
    frame.graph.initializer.extend(kept)
    return frame, stored


def packed_sizes(model: onnx.ModelProto) -> dict[str, int]:
    """Name of each node on packed operators -> how many weights it has."""
    sizes = {tensor.name: (tuple(tensor.dims), 0) for tensor in model.graph.initializer}
    return {node.name: math.prod(_float_shape(node, sizes)) for node in model.graph.node if is_packed(node)}


def _write_product(model: onnx.ModelProto, node: onnx.NodeProto, rounded: Rounded, *, exact: bool) -> None:
    """MatMul, or Gemm with its bias -> MatMulNBits."""
    rows, depth = rounded.values.shape
    group, bits = rounded.group, rounded.bits
    packed = _packed(rounded).reshape(rows, depth // group, group * bits // 8)
    names = _add(model, node, packed, rounded.scales)
    bias = [node.input[2]] if len(node.input) > 2 and node.input[2] else []
    inputs = [node.input[0], *names, *(["", "", *bias] if bias else [])]
    level = {} if exact else {"accuracy_level": 4}
    _become(node, MATMUL, inputs, {"K": depth, "N": rows, "bits": bits, "block_size": group, **level})


def _write_table(model: onnx.ModelProto, node: onnx.NodeProto, rounded: Rounded) -> None:
    names = _add(model, node, _packed(rounded), rounded.scales)
    attributes = {"gather_axis": 0, "quantize_axis": 1, "block_size": rounded.group, "bits": rounded.bits}
    _become(node, TABLE, [names[0], node.input[1], names[1]], attributes)


def _write_block(model: onnx.ModelProto, node: onnx.NodeProto, rounded: Rounded) -> None:
    """A DequantizeLinear before the layer, on weights laid out as the layer reads them."""
    flat = node.op_type == "Gather" or _transposed(node)
    values, scales = (rounded.values, rounded.scales) if flat else (rounded.values.T, rounded.scales.T)
    names = [node.name + SUFFIX[word] for word in ("values", "scales", "floats")]
    kind = TensorProto.INT4 if rounded.bits == 4 else TensorProto.INT8
    raw = _nibbles(values.reshape(-1)) if rounded.bits == 4 else np.ascontiguousarray(values, np.int8)
    tensor = TensorProto(name=names[0], data_type=kind, dims=values.shape, raw_data=raw.tobytes())
    model.graph.initializer.extend([tensor, numpy_helper.from_array(np.ascontiguousarray(scales, np.float32), names[1])])
    dequantize = helper.make_node(
        "DequantizeLinear", names[:2], names[2:], name=f"{node.name}/dequantize", axis=1 if flat else 0, block_size=rounded.group
    )
    slot = weight_slot(node)
    assert slot is not None  # it was chosen by that
    node.input[slot] = names[2]
    index = next(index for index, entry in enumerate(model.graph.node) if entry.name == node.name)
    model.graph.node.insert(index, dequantize)


def _add(model: onnx.ModelProto, node: onnx.NodeProto, packed: np.ndarray, scales: np.ndarray) -> list[str]:
    names = [node.name + SUFFIX["values"], node.name + SUFFIX["scales"]]
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for array, name in zip((packed, scales), names, strict=True))
    return names


def _become(node: onnx.NodeProto, kind: str, inputs: Sequence[str], attributes: dict[str, int]) -> None:
    node.op_type, node.domain = kind, DOMAIN
    del node.input[:], node.attribute[:]
    node.input.extend(inputs)
    node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())


def _packed(rounded: Rounded) -> np.ndarray:
    """uint8, zero in the middle; of 4 bits two to a byte, the first one low."""
    shifted = (rounded.values.astype(np.int16) + 2 ** (rounded.bits - 1)).astype(np.uint8)
    return shifted if rounded.bits == 8 else _nibbles(shifted)


def _nibbles(values: np.ndarray) -> np.ndarray:
    low, high = values[..., ::2].astype(np.uint8) & 15, values[..., 1::2].astype(np.uint8) & 15
    return np.asarray(low | (high << 4), np.uint8)


def _transposed(node: onnx.NodeProto) -> bool:
    return node.op_type == "Gemm" and bool(attribute(node, "transB", 0))


def _float_shape(node: onnx.NodeProto, sizes: dict[str, tuple[tuple[int, ...], int]]) -> tuple[int, int]:
    """Of the weights that a packed node stands for, as ``_as_float`` lets it read them."""
    if node.op_type == MATMUL:
        return attribute(node, "K", 0), attribute(node, "N", 0)
    rows, _ = sizes[node.input[0]][0]
    return rows, sizes[node.input[2]][0][1] * attribute(node, "block_size", 0)


def _as_float(node: onnx.NodeProto, weights: str) -> None:
    """The float operator of the same name."""
    bias = list(node.input[5:6])
    inputs = [weights, node.input[1]] if node.op_type == TABLE else [node.input[0], weights, *bias]
    node.op_type, node.domain = "Gather" if node.op_type == TABLE else "Gemm" if bias else "MatMul", ""
    del node.input[:], node.attribute[:]
    node.input.extend(inputs)


def _bare(name: str, dims: Sequence[int]) -> TensorProto:
    return TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)


def packed_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Nodes on packed operators, in the order of the graph."""
    return (node for node in model.graph.node if is_packed(node))
