"""A branch in two: what it makes of each frame alone, and the rest. So that of a stream every frame is computed once.

A frame is a hop of a sound's front-end, or one step of an input with ``steps``. The first graph makes a few neighbouring frames of their
own samples, the second takes those of a whole window. Both take one sample (batch 1), as a box does, and have fixed shapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgemm.contracts.card import Card
from edgemm.contracts.frontend_ops import Mask
from edgemm.contracts.modality import Modality, modalities
from edgemm.contracts.stream import Sound
from edgemm.errors import EdgemmError
from edgemm.graph import frontend, split
from edgemm.graph.branches import SIZE_OPS, WEIGHTED, node_inputs
from edgemm.graph.parity import EXPORT_TOLERANCE, asked, difference, reference_session, with_outputs

TRIES = 6  # tensors, from the last on, that are looked at as the end of what is made of one step
BATCH_AXIS, SOUND_AXIS = 0, 2


@dataclass(frozen=True)
class Framewise:
    """A branch in two.

    Attributes:
        block: To ``at_once`` neighbouring frames from the samples that they read, (1, (at_once - 1) * hop + window, ...).
        rest: From ``frames`` of them, joined along ``axis``, to what the branch gives; None where that is what the branch gives.
        frames: In a window.
        hop, window: Samples between two frames, and those that one reads; in steps where the input has them: 1 and 1.
        pad: Samples that are mirrored at both ends of a window before it is cut into frames.
    """

    block: onnx.ModelProto
    rest: onnx.ModelProto | None
    frames: int
    hop: int = 1
    window: int = 1
    pad: int = 0
    at_once: int = 1
    axis: int = BATCH_AXIS


def has_frames(card: Card, name: str) -> bool:
    """Whether an input is one of those whose branch may be cut so: a sound with a front-end, or one with steps."""
    part = modalities(card)[name]
    return bool(card.inputs[name].steps) or (isinstance(part.stream(), Sound) and bool(part.frontend()))


def cuts(branch: onnx.ModelProto, card: Card, name: str, sample: np.ndarray) -> Iterator[Framewise | str]:
    """Cut the branch of an input that ``has_frames``, in a few places: a target may round between two nodes, or not, as it likes.

    Args:
        branch: As ``split`` gives it, float or quantized.
        sample: A real one, (1, ...): tells where what is made of single steps ends.

    Returns:
        The two graphs, those first that leave less to the rest; or why there are none.
    """
    part, steps = modalities(card)[name], card.inputs[name].steps
    model = _for_one(branch)
    form = frontend.form_of(model, card, name)
    if form is None:
        yield "its front-end is not the card's any more"
        return
    try:
        yield from _steps(model, part, name, steps, sample) if steps else _frames(model, part, name, form)
    except EdgemmError as err:
        yield f"{err.what} {err.why}".strip().rstrip(".")


def _for_one(branch: onnx.ModelProto) -> onnx.ModelProto:
    """The branch for a batch of one; what was known of its tensors' shapes is inferred anew."""
    model = onnx.ModelProto()
    model.CopyFrom(branch)
    del model.graph.value_info[:]
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_value = 1
    return model


def _frames(model: onnx.ModelProto, part: Modality, name: str, form: str) -> Iterator[Framewise | str]:
    framing = part.framing()
    if framing is None:
        yield "its front-end looks at the whole window"
        return
    opset, ops, few = frontend.opset_of(model), (part.frontend_forms() or {"": part.frontend()})[form], framing.block(framing.at_once)[form]
    taken = helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, (framing.at_once - 1) * framing.hop + framing.window])
    for alone in range(framing.alone, -1, -1):
        left = len(framing.after) - alone
        end = frontend.build(name, ops[: len(ops) - left], part, opset=opset).out if left else frontend.inner(name, 0, part)
        built = frontend.build(name, [*few, *framing.after[:alone]], part, opset=opset, out=end)
        block = _model(model, "frames", built.nodes, taken, helper.make_tensor_value_info(end, TensorProto.FLOAT, None), built.constants)
        rest = split.between(model, [end], [value.name for value in model.graph.output])
        yield Framewise(block, rest, framing.frames, framing.hop, framing.window, framing.pad, framing.at_once, SOUND_AXIS)


def _steps(model: onnx.ModelProto, part: Modality, name: str, steps: int, sample: np.ndarray) -> Iterator[Framewise | str]:
    masked = any(isinstance(op, Mask) for op in part.frontend())
    path = [] if steps < 2 or masked or part.batch_axis() != 0 else _fold(model, frontend.inner(name, 0, part))
    if path:
        begin, ends = path[-1].output[0], [value.name for value in model.graph.output]
        tensors = [begin, *_bottlenecks(model, begin, ends)]
        watched = with_outputs(model, tensors)
        answers = asked(reference_session(watched), watched, {name: sample})
        values = dict(zip([value.name for value in watched.graph.output], answers, strict=True))
        alike = [tensor for tensor in tensors if values[tensor].ndim and len(values[tensor]) == steps]
        for end in reversed(alike[1:][-TRIES:] if begin in alike else []):
            if alone := _step_by_step(model, begin, end, values):
                rest = None if [end] == ends else split.between(model, [end], ends)
                yield Framewise(_with_frontend(alone, model, part, name, path, values[begin].shape[1:]), rest, steps)
    yield "what it makes of one step depends on the others"


def _fold(model: onnx.ModelProto, features: str) -> list[onnx.NodeProto]:
    """From the features to the tensor in which steps are rows: a Reshape, and pairs before it; [] where something else reads them."""
    path: list[onnx.NodeProto] = []
    while not path or path[-1].op_type != "Reshape":
        readers = [node for node in model.graph.node if features in node_inputs(node) and node.op_type not in SIZE_OPS]
        if len(readers) != 1 or readers[0].op_type not in (*split.PAIR, "Reshape"):
            return []
        path.append(readers[0])
        features = readers[0].output[0]
    return path


def _bottlenecks(model: onnx.ModelProto, begin: str, ends: Sequence[str]) -> Iterator[str]:
    """The tensors through which everything goes that is made of ``begin``, in order; none inside a quantized pair."""
    nodes = list(model.graph.node)
    last_use = {name: index for index, node in enumerate(nodes) if node.op_type not in SIZE_OPS for name in node_inputs(node)}
    last_use |= dict.fromkeys(ends, len(nodes))
    live = {begin}
    for index, node in enumerate(nodes):
        if live & set(node_inputs(node)) and node.op_type not in SIZE_OPS:
            live = {name for name in {*live, *node.output} if last_use.get(name, -1) > index}
            if len(live) == 1 and live <= set(node.output) and node.op_type not in split.PAIR:
                yield next(iter(live))


def _step_by_step(model: onnx.ModelProto, begin: str, end: str, values: Mapping[str, np.ndarray]) -> onnx.ModelProto | None:
    """The graph from ``begin`` to ``end`` for one step; None where it does nothing much, or makes something else of steps one by one."""
    alone = split.between(model, [begin], [end])
    if not any(node.op_type in WEIGHTED for node in alone.graph.node):
        return None
    (taken,), (given,) = alone.graph.input, alone.graph.output
    taken.type.tensor_type.shape.dim[0].dim_value = 1
    given.type.tensor_type.ClearField("shape")
    del alone.graph.value_info[:]
    try:
        session = reference_session(alone)
        rows = [asked(session, alone, {begin: row[None]})[0] for row in values[begin]]
    except EdgemmError:  # a size that is written into the graph
        return None
    if any(row.shape != (1, *values[end].shape[1:]) for row in rows):
        return None
    off = difference(values[end], np.concatenate(rows))
    return alone if off.relative <= EXPORT_TOLERANCE else None


def _with_frontend(
    alone: onnx.ModelProto, model: onnx.ModelProto, part: Modality, name: str, path: Sequence[onnx.NodeProto], row: Sequence[int]
) -> onnx.ModelProto:
    """``alone`` behind all that stands before it in ``model``, as for an input of one step: takes one as a box has it, (1, 1, ...).

    Args:
        path: As ``_fold`` gives it.
        row: The shape of a row of its end.
    """
    ops = part.frontend()
    built = frontend.build(name, ops, part, opset=frontend.opset_of(model), steps=1) if ops else frontend.Built([], [], name)
    shape = numpy_helper.from_array(np.array([1, *row], np.int64), f"{frontend.PREFIX}{name}/row")
    nodes, at = [*built.nodes], built.out
    for node in path:
        others = [shape.name] if node is path[-1] else node.input[1:]
        nodes.append(helper.make_node(node.op_type, [at, *others], list(node.output), name=node.name))
        nodes[-1].attribute.extend(node.attribute)
        at = node.output[0]
    read = {tensor for node in nodes for tensor in node.input}
    own = [*(tensor for tensor in model.graph.initializer if tensor.name in read), *alone.graph.initializer, shape, *built.constants]
    constants = {tensor.name: tensor for tensor in own}  # what was built anew wins over what bore its name
    taken = helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(part.dtype())), [1, 1, *part.shape()])
    return _model(alone, "step", [*nodes, *alone.graph.node], taken, alone.graph.output[0], list(constants.values()))


def _model(
    like: onnx.ModelProto, title: str, nodes: Sequence[onnx.NodeProto], taken: onnx.ValueInfoProto, given: onnx.ValueInfoProto,
    constants: Sequence[TensorProto],
) -> onnx.ModelProto:  # fmt: skip
    graph = helper.make_graph(nodes, title, [taken], [given], constants)
    return helper.make_model(graph, opset_imports=like.opset_import, ir_version=like.ir_version, functions=like.functions)
