"""What of a user's ONNX file no step here can work on, told with its cause and the way out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgemm.errors import CheckpointError, Collector
from edgemm.graph.single_precision import bodies

WEIGHED = {
    "Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (0, 1, 2), "MatMul": (0, 1), "GRU": (1, 2, 3), "LSTM": (1, 2, 3, 7), "RNN": (1, 2, 3),
    "BatchNormalization": (1, 2, 3, 4), "InstanceNormalization": (1, 2), "LayerNormalization": (1, 2), "GroupNormalization": (1, 2),
    "RMSNormalization": (1,), "PRelu": (1,), "DequantizeLinear": (1,), "QuantizeLinear": (1,),
}  # fmt: skip
"""Operators and their inputs that are weights; an infinity elsewhere may be a mask."""
PASSING = ("Identity", "Transpose", "Reshape", "Cast", "Squeeze", "Unsqueeze", "Flatten")
FIX_VALUES = "take a checkpoint from before the training diverged, and export that."


def require_tensors(model: ModelProto, name: str, outputs: Collection[str]) -> None:
    """Refuse inputs and outputs that are no tensors of numbers.

    Args:
        outputs: Names of those that are asked for; others do not matter.

    Raises:
        CheckpointError, Mistakes: One block for each.
    """
    mistakes = Collector()
    constants = {tensor.name for tensor in model.graph.initializer}
    values = [("input", value) for value in model.graph.input if value.name not in constants]
    for side, value in [*values, *(("output", value) for value in model.graph.output if value.name in outputs)]:
        kind = value.type.WhichOneof("value") or "nothing"
        if kind != "tensor_type":
            mistakes.add(
                CheckpointError(
                    f"{side} '{value.name}' of '{name}' is of the kind {kind.removesuffix('_type')}, not a tensor.",
                    why="runtimes on a box hand over tensors; skl2onnx puts a ZipMap that makes such an output at the end of a classifier."
                    if side == "output"
                    else "runtimes on a box hand over tensors.",
                    fix="export again without it (skl2onnx: options={'zipmap': False}), or name only the tensors under a card's outputs."
                    if side == "output"
                    else "export the model from the tensors on: each an input of its own, or all joined in one.",
                )
            )
        elif value.type.tensor_type.elem_type == TensorProto.STRING:
            mistakes.add(
                CheckpointError(
                    f"{side} '{value.name}' of '{name}' is made of strings.",
                    why="a box's runtimes compute with numbers alone.",
                    fix="split the text outside (modality text: token ids), and export the model from the numbers on."
                    if side == "input"
                    else "export the class's number instead, or leave that output out of the card; labels: in the card names the classes.",
                )
            )
        elif side == "input" and value.type.tensor_type.elem_type not in helper.get_all_tensor_dtypes():
            what = f"input '{value.name}' of '{name}' has no element type."
            mistakes.add(CheckpointError(what, why="the file names none that ONNX knows.", fix="export it again."))
    mistakes.raise_if_any()


def training_flags(model: ModelProto) -> dict[str, tuple[NodeProto, bool]]:
    """Inputs that say whether a Dropout drops values: the first that each of them switches, and the value with which it drops none."""
    nodes = list(_nodes(model.graph))
    makers = {name: node for node in nodes for name in node.output}
    named = {value.name for value in model.graph.input} - {tensor.name for tensor in model.graph.initializer}
    flags: dict[str, tuple[NodeProto, bool]] = {}
    for node in filter(_is_switched, nodes):
        flag, value = node.input[2], False
        while flag in makers and makers[flag].op_type in ("Not", *PASSING):
            flag, value = makers[flag].input[0], value != (makers[flag].op_type == "Not")
        if flag in named:
            flags.setdefault(flag, (node, value))
    return flags


def require_inference(model: ModelProto, name: str, built_in: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Refuse a graph exported in training mode.

    Args:
        built_in: Inputs that are constants, and their values.

    Raises:
        CheckpointError: Names the node.
    """
    constants = dict(_constants(model.graph))
    for switch, (node, value) in training_flags(model).items():
        if built_in.get(switch) != value:
            raise CheckpointError(
                f"input '{switch}' of '{name}' says whether node '{node.name or node.output[0]}' (Dropout) drops values at random.",
                why="a box's model answers the same every time.",
                fix=f"build it in: inputs.{switch}.value: {str(value).lower()} in a card (edgemm init {name} -o model.yaml writes it).",
            )
    for node in _nodes(model.graph):
        if _trains(node, constants):
            raise CheckpointError(
                f"node '{node.name or node.output[0]}' ({node.op_type}) of '{name}' is in training mode.",
                why="it drops values at random."
                if node.op_type == "Dropout"
                else "it normalises by the batch at hand, so that a sample's answer depends on its neighbours.",
                fix="call model.eval() before torch.onnx.export, and leave its `training` at TrainingMode.EVAL.",
            )


def require_finite(model: ModelProto, name: str) -> None:
    """Refuse NaN in any constant and infinities in weights; a mask's infinities pass.

    Raises:
        CheckpointError: Names the tensor.
    """
    constants = dict(_constants(model.graph))
    readers: dict[str, list[tuple[NodeProto, int]]] = {}
    for node in _nodes(model.graph):
        for slot, read in enumerate(node.input):
            readers.setdefault(read, []).append((node, slot))
    for tensor_name, tensor in constants.items():
        if tensor.data_type not in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE):
            continue
        content = numpy_helper.to_array(tensor)
        is_odd = ~np.isfinite(content.astype(np.float32) if tensor.data_type == TensorProto.BFLOAT16 else content)
        if not is_odd.any():
            continue
        count = int(np.isnan(content).sum())
        if count or _is_weight(tensor_name, readers, has_plus=bool((content == np.inf).any())):
            raise CheckpointError(
                f"weight '{tensor_name}' of '{name}' holds {'NaN' if count else 'infinity'}.",
                why=f"{count or int(is_odd.sum())} of its {content.size} values; one is enough to make every answer NaN.",
                fix=FIX_VALUES,
            )


def _trains(node: NodeProto, constants: dict[str, TensorProto]) -> bool:
    if node.op_type == "BatchNormalization":
        return any(entry.name == "training_mode" and entry.i for entry in node.attribute) or len([o for o in node.output if o]) > 1
    if not _is_switched(node) or node.input[2] not in constants:
        return False
    ratio = constants.get(node.input[1])
    is_idle = ratio is not None and not numpy_helper.to_array(ratio).any()
    return not is_idle and bool(numpy_helper.to_array(constants[node.input[2]]).any())


def _is_switched(node: NodeProto) -> bool:
    return node.op_type == "Dropout" and len(node.input) > 2 and bool(node.input[2])


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for body in bodies(node):
            yield from _nodes(body)


def _constants(graph: GraphProto) -> Iterator[tuple[str, TensorProto]]:
    yield from ((tensor.name, tensor) for tensor in graph.initializer)
    for node in graph.node:
        if node.op_type == "Constant":
            yield from ((node.output[0], entry.t) for entry in node.attribute if entry.type == onnx.AttributeProto.TENSOR)
        for body in bodies(node):
            yield from _constants(body)


def _is_weight(name: str, readers: dict[str, list[tuple[NodeProto, int]]], *, has_plus: bool) -> bool:
    """Whether a constant is multiplied with what flows through; one with +inf that is added, or looked up, is no mask either."""
    for node, slot in readers.get(name, ()):
        if slot in WEIGHED.get(node.op_type, ()) or (has_plus and (node.op_type in ("Add", "Gather", "Mul"))):
            return True
        if node.op_type in PASSING and slot == 0 and _is_weight(node.output[0], readers, has_plus=has_plus):
            return True
    return False
