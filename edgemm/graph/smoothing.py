"""Channels balanced between a layer norm and the linear layers behind it: large activations shrink, and weights grow by as much.

The result computes the same in float. What is read by others beside those layers stays as it was: the norm is there twice then.

Source: Xiao et al., SmoothQuant, ICML 2023, with the scales in the norm instead of a product of their own, since between two linear layers
OpenVINO 2026.4 computes INT8 behind such a product wrongly.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from edgemm.graph.branches import drop_dead

SMOOTHED = "/smoothed"
"""Ends names of nodes, values and weights that this made; what they were made of has the name without it."""
NORM = "LayerNormalization"
SHARE = 0.5  # of the spread that weights take over; the paper's for most models
LEAST = 1e-5  # of a channel's greatest value


def norms(model: onnx.ModelProto, untouched: Collection[str] = ()) -> list[str]:
    """Values behind layer norms that linear layers read which are not ``untouched``."""
    return [norm.output[0] for norm, readers in _found(model, untouched) if readers]


def smoothed(model: onnx.ModelProto, greatest: Mapping[str, np.ndarray], untouched: Collection[str] = ()) -> onnx.ModelProto:
    """A copy in which the linear layers behind layer norms read balanced channels.

    Args:
        greatest: Value behind a norm -> (channels,), the greatest magnitude of each; norms that are not named stay.
        untouched: Names of layers that read the value as it was.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    held = {tensor.name: tensor for tensor in copy.graph.initializer}
    for norm, readers in [(norm, readers) for norm, readers in _found(copy, untouched) if readers and norm.output[0] in greatest]:
        weights = {node.input[1]: numpy_helper.to_array(held[node.input[1]]) for node in readers}
        rows = {node.input[1]: _rows(node, weights[node.input[1]]) for node in readers}
        most = np.max([np.abs(value).max(1) for value in rows.values()], axis=0)
        scale = np.maximum(greatest[norm.output[0]], LEAST) ** SHARE / np.maximum(most, LEAST) ** (1 - SHARE)
        scale = (scale / np.exp(np.log(scale).mean())).astype(np.float32)
        _add_norm(copy, norm, {name: numpy_helper.to_array(held[name]) / scale for name in norm.input[1:] if name})
        for node in readers:
            name, value = node.input[1], weights[node.input[1]]
            along = scale[None, :] if _is_transposed(node) else scale[:, None]
            _add(copy, name, value * along, norm.output[0])
            node.input[0] += SMOOTHED
            node.input[1] = _named(name, norm.output[0])
    drop_dead(copy)
    return copy


def _found(model: onnx.ModelProto, untouched: Collection[str]) -> Iterator[tuple[onnx.NodeProto, list[onnx.NodeProto]]]:
    """Layer norms over the last axis with constant weights, and the linear layers that read them."""
    constants = {tensor.name for tensor in model.graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        if node.name not in untouched and _is_linear(node, constants):
            readers.setdefault(node.input[0], []).append(node)
    for node in list(model.graph.node):
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), -1)
        if node.op_type == NORM and axis == -1 and all(name in constants for name in node.input[1:] if name):
            yield node, readers.get(node.output[0], [])


def _is_linear(node: onnx.NodeProto, constants: Collection[str]) -> bool:
    if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in constants:
        return False
    return not any(attribute.name == "transA" and attribute.i for attribute in node.attribute)


def _is_transposed(node: onnx.NodeProto) -> bool:
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)


def _rows(node: onnx.NodeProto, weight: np.ndarray) -> np.ndarray:
    """(channels that come in, channels that go out)."""
    return weight.T if _is_transposed(node) else weight


def _add_norm(model: onnx.ModelProto, norm: onnx.NodeProto, weights: Mapping[str, np.ndarray]) -> None:
    """The same norm once more, right behind it, with other weights."""
    twin = onnx.NodeProto()
    twin.CopyFrom(norm)
    twin.name += SMOOTHED
    del twin.output[1:]
    twin.output[0] += SMOOTHED
    for slot, name in enumerate(norm.input):
        if name in weights:
            _add(model, name, weights[name], norm.output[0])
            twin.input[slot] = _named(name, norm.output[0])
    model.graph.node.insert(list(model.graph.node).index(norm) + 1, twin)


def _add(model: onnx.ModelProto, name: str, value: np.ndarray, behind: str) -> None:
    """Put a constant there, once."""
    if all(tensor.name != _named(name, behind) for tensor in model.graph.initializer):
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype=np.float32), _named(name, behind)))


def _named(name: str, behind: str) -> str:
    """A weight that two norms' layers share has a form behind each."""
    return f"{name}/{behind}{SMOOTHED}"
