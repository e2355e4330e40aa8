"""Take out of an exported graph what only the exporter needs: index arithmetic, zero states, guards that never fire, foreign sizes.

Works in place on ``onnx_ir`` models. Every rewrite keeps each output's value for every input; names of the tensors that stay are kept.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from edgemm.graph import attention
from edgemm.graph.values import add_constant, constant, flag, is_zero, nodes_of, sizes_of

SCOPES = "pkg.torch.onnx.name_scopes"  # node metadata: names of the modules around a node, outermost first, then its own
RECURRENT = ("GRU", "LSTM", "RNN")
STATES = (5, 6)  # positions of initial_h and initial_c among the inputs of a recurrent node


def tidy(model: ir.Model, groups: Mapping[str, str]) -> None:
    """Clean up ``model`` in place.

    Args:
        groups: Graph input -> the input whose branch it feeds (a text's mask -> the text).
    """
    common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    _drop_zero_states(model)
    _make_reshapes_constant(model)
    _end_spectra(model)
    attention.turn_keys_once(model)
    attention.drop_guards(model)
    _own_sizes(model, groups)
    common.RemoveUnusedNodesPass()(model)
    model.graph.sort()


def _end_spectra(model: ir.Model) -> None:
    """A Reshape behind each Fourier transform: OpenVINO reads what follows one as complex numbers, and gets its sizes wrong."""
    for node in nodes_of(model, "DFT"):
        spectrum, uses = node.outputs[0], list(node.outputs[0].uses())
        shape = sizes_of(spectrum)
        if not shape or not isinstance(shape[-1], int) or all(use.node.op_type == "Reshape" for use in uses):
            continue
        pairs = add_constant(model, f"{node.name}_pairs", np.array([0] * (len(shape) - 1) + shape[-1:], np.int64))
        ended = ir.node("Reshape", [spectrum, pairs], name=f"{node.name}_ended")
        ended.outputs[0].name, ended.outputs[0].shape, ended.outputs[0].type = f"{spectrum.name}_pairs", spectrum.shape, spectrum.type
        for use in uses:
            use.node.replace_input_with(use.idx, ended.outputs[0])
        model.graph.insert_after(node, ended)


def _drop_zero_states(model: ir.Model) -> None:
    """A recurrent node's initial state of zeros is what ONNX assumes anyway; dropped, it needs no batch size."""
    for node in nodes_of(model, *RECURRENT):
        for position in STATES:
            if position < len(node.inputs) and is_zero(node.inputs[position]):
                node.replace_input_with(position, None)


def _make_reshapes_constant(model: ir.Model) -> None:
    """A Reshape whose result has at most one size that cannot be copied from its source needs no Shape-Slice-Concat chain."""
    for node in nodes_of(model, "Reshape"):
        if constant(node.inputs[1]) is not None or flag(node, "allowzero"):
            continue
        shape, target, source = sizes_of(node.outputs[0]), _content(node.inputs[1]), sizes_of(node.inputs[0]) or []
        if target is None or not shape or len(shape) != len(target):
            continue
        sizes = []
        for axis, (result_size, target_size) in enumerate(zip(shape, target, strict=True)):
            size = next((s for s in (result_size, target_size) if isinstance(s, int) and s > 0), None)
            same = size is None and axis < len(source) and source[axis] == target_size and isinstance(target_size, str)
            sizes.append(size or (0 if same else -1))
        if sizes.count(-1) <= 1:
            node.replace_input_with(1, add_constant(model, f"{node.name}_target", np.array(sizes, np.int64)))


def _content(value: ir.Value | None) -> list[int | str] | None:
    """What a 1-d tensor of sizes holds, entry by entry: a number, or the name of an open size (``?`` where even that is unknown)."""
    content = constant(value)
    if content is not None:
        return [int(n) for n in content.reshape(-1)] if content.dtype.kind == "i" else None
    maker = value.producer() if value is not None else None
    if maker is None:
        return None
    if maker.op_type == "Shape":
        sizes = sizes_of(maker.inputs[0])
        return None if sizes is None else sizes[maker.attributes.get_int("start", 0) : maker.attributes.get_int("end", len(sizes))]
    parts = [_content(part) for part in maker.inputs if part is not None]
    if any(part is None for part in parts):
        return None
    lists = [part for part in parts if part is not None]
    if maker.op_type == "Concat":
        return [size for part in lists for size in part]
    if maker.op_type in ("Squeeze", "Unsqueeze", "Reshape", "Cast", "Identity"):
        return lists[0]
    if maker.op_type == "Mul" and len(lists[0]) == len(lists[1]):
        return [a * b if isinstance(a, int) and isinstance(b, int) else "?" for a, b in zip(*lists, strict=True)]
    if maker.op_type == "Slice" and (len(lists) < 5 or lists[4] == [1]):
        start, end = lists[1][0], lists[2][0]
        return lists[0][start:end] if isinstance(start, int) and isinstance(end, int) else None
    if maker.op_type == "Gather" and all(isinstance(n, int) for n in lists[1]):
        return [lists[0][n] for n in lists[1] if isinstance(n, int)]
    return None


def _own_sizes(model: ir.Model, groups: Mapping[str, str]) -> None:
    """Let every branch read the batch size from its own input: the exporter reads all from one, which would tie branches together."""
    graph = model.graph
    depends: dict[ir.Value, frozenset[str]] = {value: frozenset([groups.get(str(value.name), str(value.name))]) for value in graph.inputs}
    first_of = {groups.get(str(value.name), str(value.name)): value for value in reversed(graph.inputs)}
    copies: dict[tuple[ir.Value, str], ir.Value] = {}
    graph.sort()
    for node in list(graph):
        read = [value for value in node.inputs if value is not None]
        sources = frozenset().union(*(depends.get(value, frozenset()) for value in read))
        of_node = frozenset() if node.op_type in ("Shape", "Size") else sources
        depends.update(dict.fromkeys(node.outputs, of_node))
        if len(of_node) != 1:
            continue
        (branch,) = of_node
        for position, value in enumerate(node.inputs):
            if value is not None and not depends.get(value) and _foreign(value, branch, first_of):
                own = _size_of(value, branch, first_of, copies, graph)
                if own is not None:
                    node.replace_input_with(position, own)


def _foreign(value: ir.Value, branch: str, first_of: Mapping[str, ir.Value]) -> bool:
    """Whether a size is computed from another branch's tensor."""
    maker = value.producer()
    if maker is None:
        return False
    if maker.op_type == "Shape":
        return maker.inputs[0] is not first_of[branch]
    return any(_foreign(part, branch, first_of) for part in maker.inputs if part is not None)


def _size_of(
    value: ir.Value, branch: str, first_of: Mapping[str, ir.Value], copies: dict[tuple[ir.Value, str], ir.Value], graph: ir.Graph
) -> ir.Value | None:
    """``value``, recomputed from ``branch``'s own input; None where it is more than the batch size of a graph input."""
    maker = value.producer()
    if maker is None:
        return value
    if (value, branch) in copies:
        return copies[value, branch]
    if maker.op_type == "Shape":
        if not _is_batch(maker):
            return None
        own: list[ir.Value | None] = [first_of[branch]]
    else:
        own = [_size_of(part, branch, first_of, copies, graph) if part is not None else None for part in maker.inputs]
        if any(new is None and old is not None for new, old in zip(own, maker.inputs, strict=True)):
            return None
    if len(maker.outputs) != 1:
        return None
    copy = ir.Node(maker.domain, maker.op_type, own, list(maker.attributes.values()), num_outputs=1, name=f"{maker.name}_{branch}")
    copy.outputs[0].name = f"{value.name}_{branch}"
    copy.outputs[0].shape, copy.outputs[0].type = value.shape, value.type
    graph.append(copy)
    copies[value, branch] = copy.outputs[0]
    return copy.outputs[0]


def _is_batch(shape: ir.Node) -> bool:
    """Whether a Shape node reads nothing but the first size of a graph input (all of them share it)."""
    start, end = shape.attributes.get_int("start", 0), shape.attributes.get_int("end", None)
    value = shape.inputs[0]
    rank = len(sizes_of(value) or ())
    return value is not None and value.is_graph_input() and start == 0 and (end == 1 or rank == 1)
