"""What a graph becomes before TensorRT reads it: its forms by precision, and the order of operators that its parser wants."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from edgemm.graph import float16, placement, symmetric_qdq
from edgemm.graph.qdq_pairs import Wiring


def normalise(model: onnx.ModelProto) -> None:
    """Bring a Q/DQ graph from anywhere into the form that TensorRT computes rightly and fuses; in place."""
    symmetric_qdq.make_symmetric(model)
    placement.settle(model)
    cast_bytes_first(model)


def form(model: onnx.ModelProto, *, precision: str, int8: bool) -> onnx.ModelProto:
    """A copy of a graph in one of the forms that are built and timed.

    Args:
        precision: Float type of what is not INT8: ``f32`` or ``f16``.
        int8: False = without its quantizers.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if not int8:
        copy = placement.without_pairs(copy)
    cast_bytes_first(copy)
    return float16.to_half(copy) if precision == "f16" else copy


def cast_bytes_first(model: onnx.ModelProto) -> None:
    """Turn uint8 inputs into floats before anything else moves them; in place. TensorRT casts uint8 and does nothing else with it."""
    wiring = Wiring(model)
    for value in model.graph.input:
        readers = [use for use in wiring.users.get(value.name, ()) if use[0].op_type not in ("Cast", "Shape", "Size")]
        if value.type.tensor_type.elem_type != TensorProto.UINT8 or not readers:
            continue
        name = f"{value.name}_float"
        first = readers[0][0].name.rpartition("/")[0]
        cast = helper.make_node(
            "Cast", [value.name], [name], f"{first}/cast_first" if first else f"{value.name}/cast_first", to=TensorProto.FLOAT
        )
        for node, slot in readers:
            wiring.rewire(node, slot, name)
        model.graph.node.insert(0, cast)
        del model.graph.value_info[:]  # what was uint8 on the way to the old Cast is float now
