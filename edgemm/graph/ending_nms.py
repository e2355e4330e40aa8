"""A detector's graph that ends in NonMaxSuppression: the tensors before it, and what it suppresses by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from edgemm.errors import CheckpointError
from edgemm.graph.onnx_card import NMS

CHOOSING = ("NonZero", "Compress")
"""What leaves places out by their values, so that how many are left depends on the picture."""
OF_LABELS = ("ArgMax", "TopK", "OneHot")
"""What boxes depend on where they were moved apart by their label, so that one pass serves all labels."""
PLAIN = ("Identity", "Cast", "Unsqueeze", "Squeeze", "Reshape")
FIX = "export it without NMS (ultralytics: nms=False): edgemm suppresses on the box, in the same way for every target."
UNLIMITED = 10_000  # boxes of a label; who asks for more means all


@dataclass(frozen=True)
class Ending:
    """What a NonMaxSuppression takes.

    Attributes:
        boxes, scores: Its tensors: (N, places, 4) and (N, labels, places).
        iou, score: Its thresholds; None where it has none, or an input of the model says them.
        most: Boxes of a label that it keeps; None where it keeps all.
        is_centre: Boxes are centre and size; else two opposite corners, of which it does not say whether x or y comes first.
    """

    boxes: str
    scores: str
    iou: float | None
    score: float | None
    most: int | None
    is_centre: bool


def find(model: onnx.ModelProto, name: str) -> Ending | None:
    """The suppression that a graph ends in; None where it has none.

    Args:
        name: What errors call the file.

    Raises:
        CheckpointError: There are several; or what goes in was chosen or moved for it before, so that it is no detector's answer.
    """
    nodes = [node for node in model.graph.node if node.op_type == NMS]
    if not nodes:
        return None
    if len(nodes) > 1:
        raise CheckpointError(f"'{name}' has {len(nodes)} NonMaxSuppression.", why="each suppresses a part of the boxes.", fix=FIX)
    node = nodes[0]
    maker = {output: other for other in model.graph.node for output in other.output}
    for tensor, kinds, what in (
        (node.input[0], CHOOSING, "were chosen by their scores before"),
        (node.input[1], CHOOSING, "were chosen before"),
        (node.input[0], OF_LABELS, "were moved apart by their labels before"),
    ):
        if (first := _first(maker, tensor, kinds)) is not None:
            things = "boxes" if tensor == node.input[0] else "scores"
            raise CheckpointError(
                f"'{name}' ends in a NonMaxSuppression that cannot be cut off.",
                why=f"the {things} that it takes {what} ({first.op_type} '{first.name or first.output[0]}').",
                fix=FIX,
            )
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    most, iou, score = (_constant(maker, constants, node.input[place] if len(node.input) > place else "") for place in (2, 3, 4))
    is_centre = any(attribute.name == "center_point_box" and attribute.i for attribute in node.attribute)
    return Ending(node.input[0], node.input[1], iou, score, int(most) if most and most < UNLIMITED else None, is_centre)


def _first(maker: Mapping[str, onnx.NodeProto], tensor: str, kinds: Iterable[str]) -> onnx.NodeProto | None:
    """A node of some kinds that a tensor depends on; None where there is none."""
    waiting, seen = [tensor], set[str]()
    while waiting:
        name = waiting.pop()
        node = maker.get(name)
        if name in seen or node is None:
            continue
        seen.add(name)
        if node.op_type in kinds:
            return node
        waiting += node.input
    return None


def _constant(maker: Mapping[str, onnx.NodeProto], constants: Mapping[str, np.ndarray], name: str) -> float | None:
    """A number that depends on no input, to the six digits that a float32 tells; None where there is none."""
    node = maker.get(name)
    while node is not None and node.op_type in PLAIN:
        name = node.input[0]
        node = maker.get(name)
    value = constants.get(name)
    if node is not None and node.op_type == "Constant":
        held = node.attribute[0]
        value = numpy_helper.to_array(held.t) if held.HasField("t") else np.array([*held.floats, *held.ints, held.f or held.i][:1])
    return round(float(value.reshape(-1)[0]), 6) if value is not None and value.size else None
