"""ONNX files: load and save whole, also above protobuf's limit of 2 GB, and copies of a graph without its weights."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

LIMIT_BYTES = 2_000_000_000  # protobuf refuses messages of 2 GiB and more; the nodes need their room too
SMALL_BYTES = 1024  # constants up to this size steer shapes (axes, reshape targets); they stay in the main file and in skeletons
FOUR_BITS = (onnx.TensorProto.INT4, onnx.TensorProto.UINT4)
ALIGN_BYTES = 4096  # page size, so that runtimes can map the data file


def load(path: Path) -> onnx.ModelProto:
    """Read an ONNX file and its external data."""
    return onnx.load(str(path))


@lru_cache(maxsize=4)
def frame(path: Path) -> onnx.ModelProto:
    """The ``skeleton`` of a file that never changes, as those of the cache; shared, so not to be changed."""
    return skeleton(load(path))


def save(model: onnx.ModelProto, path: Path, *, limit_bytes: int = LIMIT_BYTES) -> Path:
    """Write ``model``; above ``limit_bytes`` its weights go to ``<name>.data`` beside it. The same model gives the same bytes."""
    if weight_bytes(model) <= limit_bytes:
        path.write_bytes(model.SerializeToString(deterministic=True))
        return path
    frame = skeleton(model)
    with path.with_name(path.name + ".data").open("wb") as file:
        for full, empty in zip(tensors(model), tensors(frame), strict=True):
            if not is_bare(empty):
                continue
            content = numpy_helper.to_array(full).tobytes() if not full.raw_data else full.raw_data
            file.write(b"\0" * (-file.tell() % ALIGN_BYTES))
            set_external(empty, path.name + ".data", file.tell(), len(content))
            file.write(content)
    path.write_bytes(frame.SerializeToString(deterministic=True))
    return path


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of all constant tensors of the top graph."""
    return sum(tensor_bytes(tensor) for tensor in tensors(model))


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every constant tensor of the top graph: initializers and the values of Constant nodes."""
    yield from model.graph.initializer
    for node in model.graph.node:
        if node.op_type == "Constant":
            yield from (attribute.t for attribute in node.attribute if attribute.name == "value")


def tensor_bytes(tensor: onnx.TensorProto) -> int:
    """Size of a tensor's data, from its dtype and dims."""
    count = int(np.prod(tensor.dims, dtype=np.int64))
    if tensor.data_type in FOUR_BITS:
        return -(-count // 2)
    item = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize if tensor.data_type != onnx.TensorProto.STRING else 8
    return count * item


def skeleton(model: onnx.ModelProto, *, small_bytes: int = SMALL_BYTES) -> onnx.ModelProto:
    """A copy whose big tensors have dtype and dims but no data: enough for names, order and shapes, at no cost in memory."""
    frame = onnx.ModelProto()
    for name, value in model.ListFields():
        if name.name != "graph":
            _assign(frame, name, value)
    for name, value in model.graph.ListFields():
        if name.name not in ("initializer", "node"):
            _assign(frame.graph, name, value)
    for tensor in model.graph.initializer:
        _copy_tensor(frame.graph.initializer.add(), tensor, small_bytes)
    for node in model.graph.node:
        copy = frame.graph.node.add()
        if node.op_type == "Constant" and any(tensor_bytes(a.t) > small_bytes for a in node.attribute if a.name == "value"):
            copy.op_type, copy.name = node.op_type, node.name
            copy.output.extend(node.output)
            attribute = copy.attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
            _copy_tensor(attribute.t, next(a.t for a in node.attribute if a.name == "value"), small_bytes)
        else:
            copy.CopyFrom(node)
    return frame


def filled(frame: onnx.ModelProto, model: onnx.ModelProto) -> onnx.ModelProto:
    """``frame``, a ``skeleton`` of ``model`` that may have changed since, with the data that it lacks; in place."""
    whole = {tensor.name: tensor for tensor in model.graph.initializer}
    for tensor in frame.graph.initializer:
        if is_bare(tensor):
            tensor.CopyFrom(whole[tensor.name])
    constants = {node.output[0]: node for node in model.graph.node if node.op_type == "Constant"}
    for node in frame.graph.node:
        if node.op_type == "Constant" and any(is_bare(entry.t) for entry in node.attribute if entry.name == "value"):
            node.CopyFrom(constants[node.output[0]])
    return frame


def is_bare(tensor: onnx.TensorProto) -> bool:
    """Whether ``skeleton`` left this tensor's data out."""
    return tensor.data_location == onnx.TensorProto.EXTERNAL and not tensor.raw_data


def set_external(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    """Point a bare tensor at its place in a data file."""
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def _assign(message: object, field: object, value: object) -> None:
    name = field.name  # type: ignore[attr-defined]
    if hasattr(value, "CopyFrom"):
        getattr(message, name).CopyFrom(value)
    elif hasattr(value, "extend"):
        getattr(message, name).extend(value)
    else:
        setattr(message, name, value)


def _copy_tensor(copy: onnx.TensorProto, tensor: onnx.TensorProto, small_bytes: int) -> None:
    if tensor_bytes(tensor) <= small_bytes:
        copy.CopyFrom(tensor)
        return
    copy.name, copy.data_type, copy.data_location = tensor.name, tensor.data_type, onnx.TensorProto.EXTERNAL
    copy.dims.extend(tensor.dims)
