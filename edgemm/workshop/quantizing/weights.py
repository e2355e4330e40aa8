"""Weights alone in 4 or 8 bits, a scale for each group of neighbours; activations stay float. Where memory is what hurts.

Of 4 bits each scale is searched: the one with the least error of the layer's result, which counts a weight by the mean square of what it
is multiplied by on calibration rows (as AWQ and NNCF's scale estimation weigh it), then fitted by least squares to the rounded values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgemm.contracts.step import Context
from edgemm.errors import QuantizeError
from edgemm.graph import packed_weights, parity
from edgemm.graph.branches import drop_unread
from edgemm.graph.packed_weights import LEAST_GROUP, Rounded
from edgemm.graph.qdq_pairs import attribute
from edgemm.workshop.quantizing import calibration

LARGEST_GROUP = 256
FEWEST_WEIGHTS = 4096  # of a layer: less is not worth an operator of its own
WEIGHING_SAMPLES = 32  # second moments over all tokens settle quickly
LEAST_SHARE = 0.01  # of the mean importance: an input that calibration never saw still counts for something
CHUNK_VALUES = 1 << 22  # weights rounded at a time, so that the search takes tens of MB whatever the layer
SHRUNK = (1.143, 1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.62)
"""Steps tried, as a share of what lets the outermost value be the last of the 16; 8/7 has it next to last."""
MOMENT = "edgemm/moment/"
UNSIGNED = "uint8"  # ONNX Runtime's numerics
AXES_AS_INPUT = 18  # opset from which ReduceMean takes its axes so


def check(ctx: Context, bits: int, group: int) -> None:
    """What can be known before any work.

    Raises:
        QuantizeError: Bits that the target lacks, or a group that no runtime packs.
    """
    able = ctx.numerics.weight_bits
    if bits not in able:
        others = f"one of: {', '.join(map(str, able))}." if able else "set method: ptq, or take another target, such as openvino."
        raise QuantizeError(
            f"bits: target '{ctx.target}' computes with no weights of {bits} bits.",
            why="it would unpack them to floats while it loads, and nothing would be gained." if able else "its runtime knows none.",
            fix=others,
        )
    if group < LEAST_GROUP or group > LARGEST_GROUP or group & (group - 1):
        raise QuantizeError(
            f"group: {group} weights to a scale.",
            why="runtimes unpack powers of two.",
            fix="one of: 16, 32, 64, 128, 256; 64 is usual.",
        )


def pack(
    model: onnx.ModelProto, floats: onnx.ModelProto, bits_of: Mapping[str, int], group: int, ctx: Context, samples: int
) -> onnx.ModelProto:
    """``model`` with the weights of its products and tables in few bits; changed in place.

    Args:
        model: The same nodes as ``floats``, some quantized already; weights that are packed here need not be there (``files.skeleton``).
        floats: Where float weights are read.
        bits_of: Node name -> bits wanted; of other nodes, and of those without weights that can be packed, nothing changes.
        group: Weights to a scale; of a layer whose depth it does not divide, the largest power of two that does.
        samples: Rows at most that weights are weighed on.
    """
    layers = [(node, tensor) for node, tensor in _layers(floats) if node.name in bits_of]
    fewer = {node.name: node.input[0] for node, _ in layers if bits_of[node.name] < 8 and node.op_type != "Gather"}
    moments = _moments(floats, fewer, ctx, samples) if fewer else {}
    signed, exact = ctx.numerics.weight_form == packed_weights.OPERATORS, ctx.numerics.activations != UNSIGNED
    nodes, weights = {node.name: node for node in model.graph.node}, 0
    for number, (node, tensor) in enumerate(layers):
        ctx.progress("rounding weights", number / len(layers))
        rows = packed_weights.in_rows(node, numpy_helper.to_array(tensor))
        moment = moments.get(fewer.get(node.name, ""))
        rounded = rounded_rows(rows, bits_of[node.name], _fitting(rows.shape[1], group), moment, signed=signed)
        packed_weights.write(model, nodes[node.name], rounded, ctx.numerics.weight_form, exact=exact)
        weights += rows.size
    if not layers:
        return model
    drop_unread(model)
    ctx.note(_told(model, [bits_of[node.name] for node, _ in layers], weights))
    return packed_weights.finish(model, ctx.numerics.weight_form)


def rounded_rows(rows: np.ndarray, bits: int, group: int, importance: np.ndarray | None = None, *, signed: bool = True) -> Rounded:
    """Round each row in groups.

    Args:
        rows: float32, shape (rows, depth); ``group`` divides the depth.
        importance: float32, shape (depth,): what the square of a weight's error counts; None = all alike.
        signed: Whether scales may be negative, which TensorRT refuses.
    """
    count, depth = rows.shape
    values, scales = np.empty((count, depth), np.int8), np.empty((count, depth // group), np.float32)
    weight = np.ones(depth, np.float32) if importance is None else importance / max(float(importance.mean()), 1e-30) + LEAST_SHARE
    step = max(1, CHUNK_VALUES // depth)
    for first in range(0, count, step):
        chunk = np.ascontiguousarray(rows[first : first + step], np.float32).reshape(-1, depth // group, group)
        rounded, scale = _searched(chunk, weight.reshape(-1, group), signed=signed) if bits < 8 else _plain(chunk, bits)
        values[first : first + step], scales[first : first + step] = rounded.reshape(-1, depth), scale[..., 0]
    return Rounded(values, scales, bits)


def _plain(groups: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """By the largest value of each group; shapes (rows, groups, group) -> the same, (rows, groups, 1)."""
    scale = np.abs(groups).max(axis=2, keepdims=True) / (2 ** (bits - 1) - 1)
    scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
    return np.round(groups / scale).astype(np.int8), scale


def _searched(groups: np.ndarray, weight: np.ndarray, *, signed: bool) -> tuple[np.ndarray, np.ndarray]:
    """By the step of 4 bits with the least weighted error; its sign lets the outermost value take the -8 that +7 lacks."""
    outer = np.take_along_axis(groups, np.abs(groups).argmax(axis=2)[..., None], axis=2)
    whole = np.where(outer == 0, np.float32(1), (outer / -8) if signed else np.abs(outer) / 8).astype(np.float32)
    best, least, chosen = np.zeros(groups.shape, np.int8), np.full(whole.shape, np.inf, np.float32), whole.copy()
    for share in SHRUNK:
        scale = whole * np.float32(share)
        rounded = np.clip(np.round(groups / scale), -8, 7)
        error = ((groups - rounded * scale) ** 2 * weight).sum(axis=2, keepdims=True)
        better = error < least
        np.copyto(best, rounded.astype(np.int8), where=better)
        np.copyto(least, error, where=better)
        np.copyto(chosen, scale, where=better)
    floats = best.astype(np.float32)
    power = (floats**2 * weight).sum(axis=2, keepdims=True)
    fitted = (groups * floats * weight).sum(axis=2, keepdims=True) / np.where(power > 0, power, 1)
    return best, np.where(power > 0, fitted, chosen).astype(np.float32)


def _layers(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, onnx.TensorProto]]:
    """Products and tables whose weights can be packed, with them."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        slot = packed_weights.weight_slot(node)
        tensor = constants.get(node.input[slot]) if slot is not None else None
        if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) != 2:
            continue
        others = [name for index, name in enumerate(node.input) if index != slot]
        if others[0] in constants or (len(others) > 1 and not _is_bias(constants.get(others[1]))):
            continue
        depth = tensor.dims[1] if node.op_type == "Gather" or attribute(node, "transB", 0) else tensor.dims[0]
        if tensor.dims[0] * tensor.dims[1] >= FEWEST_WEIGHTS and _fitting(depth, LARGEST_GROUP) >= LEAST_GROUP:
            yield node, tensor


def _is_bias(tensor: onnx.TensorProto | None) -> bool:
    return tensor is not None and len(tensor.dims) == 1


def _fitting(depth: int, group: int) -> int:
    """The largest power of two up to ``group`` that divides ``depth``."""
    return min(group, depth & -depth)


def _moments(model: onnx.ModelProto, inputs: Mapping[str, str], ctx: Context, samples: int) -> dict[str, np.ndarray]:
    """Tensor -> mean square of what each of its last axis' places holds, over calibration rows."""
    depths = {}
    sizes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.name in inputs:
            dims = sizes[node.input[1]]
            depths[node.input[0]] = dims[1] if attribute(node, "transB", 0) else dims[0]
    feeds = calibration.samples(model, ctx, min(samples, WEIGHING_SAMPLES))
    with _measuring(model, depths) as names:
        session = parity.reference_session(model, beside=names)
        sums = dict.fromkeys(depths, np.zeros(1, np.float64))
        for number, feed in enumerate(feeds):
            ctx.progress("weighing weights", number / len(feeds))
            for tensor, moment in zip(depths, session.run(names, feed), strict=True):
                sums[tensor] = sums[tensor] + moment
    return {tensor: (total / len(feeds)).astype(np.float32) for tensor, total in sums.items() if np.isfinite(total).all()}


@contextmanager
def _measuring(model: onnx.ModelProto, depths: Mapping[str, int]) -> Iterator[list[str]]:
    """Meanwhile the graph computes mean squares too; the names of these."""
    nodes, constants = len(model.graph.node), len(model.graph.initializer)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    names = [f"{MOMENT}{number}" for number in range(len(depths))]
    try:
        model.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), f"{MOMENT}axes"))
        for name, (tensor, depth) in zip(names, depths.items(), strict=True):
            model.graph.initializer.append(numpy_helper.from_array(np.array([-1, depth], np.int64), f"{name}/shape"))
            model.graph.node.extend(_moment(name, tensor, with_axes=opset >= AXES_AS_INPUT))
        yield names
    finally:
        del model.graph.node[nodes:], model.graph.initializer[constants:]


def _moment(name: str, tensor: str, *, with_axes: bool) -> Sequence[onnx.NodeProto]:
    mean = helper.make_node("ReduceMean", [f"{name}/flat", *([f"{MOMENT}axes"] if with_axes else [])], [name], name=name, keepdims=0)
    if not with_axes:
        mean.attribute.append(helper.make_attribute("axes", [0]))
    return [
        helper.make_node("Mul", [tensor, tensor], [f"{name}/square"], name=f"{name}/square"),
        helper.make_node("Reshape", [f"{name}/square", f"{name}/shape"], [f"{name}/flat"], name=f"{name}/flat"),
        mean,
    ]


def _told(model: onnx.ModelProto, bits: Sequence[int], weights: int) -> str:
    """What was packed, and what of it stays in float."""
    floats = (tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT and _is_kernel(tensor))
    left = sum(int(np.prod(tensor.dims)) for tensor in floats)
    rest = f"; {left / 1e6:.3g} M weights of convolutions, recurrent and other layers stay float" if left > FEWEST_WEIGHTS else ""
    return f"{weights / 1e6:.3g} M weights of {len(bits)} layers are kept in {' and '.join(map(str, sorted({*bits})))} bits{rest}."


def _is_kernel(tensor: onnx.TensorProto) -> bool:
    return len(tensor.dims) > 1 and not tensor.name.endswith(packed_weights.SUFFIX["scales"])
