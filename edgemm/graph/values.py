"""What is known about the values of an ``onnx_ir`` graph."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

CARRY_ZEROS = ("Expand", "Slice", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Cast", "Identity", "Gather", "Tile")
"""Operators that make zeros of zeros."""


def constant(value: ir.Value | None) -> np.ndarray | None:
    """A value's constant content, or None."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else tensor.numpy()


def made_by(value: ir.Value | None) -> ir.Node | None:
    """The node that computes a value; None for inputs and constants."""
    return value.producer() if value is not None else None


def flag(node: ir.Node, name: str) -> bool:
    """Whether a node's whole-number attribute is there and not 0."""
    return name in node.attributes and bool(node.attributes[name].as_int())


def nodes_of(model: ir.Model, *kinds: str) -> Iterator[ir.Node]:
    """Nodes of ONNX's own operators ``kinds``, in the graph's order; the graph may be changed meanwhile."""
    return (node for node in list(model.graph) if node.op_type in kinds and node.domain in ("", "ai.onnx"))


def is_zero(value: ir.Value | None) -> bool:
    """Whether a value is known to hold nothing but zeros."""
    if value is None:
        return False
    content = constant(value)
    if content is not None:
        return bool(content.size) and not np.any(content)
    maker = value.producer()
    if maker is None:
        return False
    if maker.op_type == "ConstantOfShape":
        fill = maker.attributes.get("value")
        return fill is None or not np.any(fill.as_tensor().numpy())
    if maker.op_type == "Concat":
        return all(is_zero(part) for part in maker.inputs)
    return maker.op_type in CARRY_ZEROS and is_zero(maker.inputs[0])


def sizes_of(value: ir.Value | None) -> list[int | str] | None:
    """A value's shape, free axes by name; None where the graph does not tell it."""
    if value is None or value.shape is None:
        return None
    return [size if isinstance(size, int) else str(size) for size in value.shape]


def add_constant(model: ir.Model, name: str, content: np.ndarray) -> ir.Value:
    """A new initializer of the graph."""
    value = ir.Value(name=name, const_value=ir.tensor(content))
    value.shape, value.dtype = ir.Shape(content.shape), ir.DataType.from_numpy(content.dtype)
    model.graph.register_initializer(value)
    return value
