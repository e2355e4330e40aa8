"""Take out of an exported graph what only the exporter needs: index arithmetic, zero states, guards that never fire, foreign sizes.

Works in place on ``onnx_ir`` models. Every rewrite keeps each output's value for every input; names of the tensors that stay are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

SCOPES = "pkg.torch.onnx.name_scopes"  # node metadata: names of the modules around a node, outermost first, then its own
RECURRENT = ("GRU", "LSTM", "RNN")
STATES = (5, 6)  # positions of initial_h and initial_c among the inputs of a recurrent node
CLOSED = -1e30  # a mask's value below this closes a position: -inf, or the most negative float32
CARRY_ZEROS = ("Expand", "Slice", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Cast", "Identity", "Gather", "Tile")


def tidy(model: ir.Model, groups: Mapping[str, str]) -> None:
    """Clean up ``model`` in place.

    Args:
        groups: Graph input -> the input whose branch it feeds (a text's mask -> the text).
    """
    common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    _drop_zero_states(model)
    _make_reshapes_constant(model)
    _turn_keys_once(model)
    _drop_guards(model)
    _own_sizes(model, groups)
    common.RemoveUnusedNodesPass()(model)
    model.graph.sort()


def constant(value: ir.Value | None) -> np.ndarray | None:
    """A value's constant content, or None."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else tensor.numpy()


def _maker(value: ir.Value | None) -> ir.Node | None:
    return value.producer() if value is not None else None


def _flag(node: ir.Node, name: str) -> bool:
    return name in node.attributes and bool(node.attributes[name].as_int())


def _nodes(model: ir.Model, *kinds: str) -> Iterator[ir.Node]:
    return (node for node in list(model.graph) if node.op_type in kinds and node.domain in ("", "ai.onnx"))


def _drop_zero_states(model: ir.Model) -> None:
    """A recurrent node's initial state of zeros is what ONNX assumes anyway; dropped, it needs no batch size."""
    for node in _nodes(model, *RECURRENT):
        for position in STATES:
            if position < len(node.inputs) and _is_zero(node.inputs[position]):
                node.replace_input_with(position, None)


def _is_zero(value: ir.Value | None) -> bool:
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
        return all(_is_zero(part) for part in maker.inputs)
    return maker.op_type in CARRY_ZEROS and _is_zero(maker.inputs[0])


def _make_reshapes_constant(model: ir.Model) -> None:
    """A Reshape whose result has at most one size that cannot be copied from its source needs no Shape-Slice-Concat chain."""
    for node in _nodes(model, "Reshape"):
        if constant(node.inputs[1]) is not None or _flag(node, "allowzero"):
            continue
        shape, target, source = _sizes(node.outputs[0]), _content(node.inputs[1]), _sizes(node.inputs[0]) or []
        if target is None or not shape or len(shape) != len(target):
            continue
        sizes = []
        for axis, (known, asked) in enumerate(zip(shape, target, strict=True)):
            size = next((s for s in (known, asked) if isinstance(s, int) and s > 0), None)
            same = size is None and axis < len(source) and source[axis] == asked and isinstance(asked, str)
            sizes.append(size or (0 if same else -1))
        if sizes.count(-1) <= 1:
            node.replace_input_with(1, _constant(model, f"{node.name}_target", np.array(sizes, np.int64)))


def _content(value: ir.Value | None) -> list[int | str] | None:
    """What a 1-d tensor of sizes holds, entry by entry: a number, or the name of an open size (``?`` where even that is unknown)."""
    known = constant(value)
    if known is not None:
        return [int(n) for n in known.reshape(-1)] if known.dtype.kind == "i" else None
    maker = value.producer() if value is not None else None
    if maker is None:
        return None
    if maker.op_type == "Shape":
        sizes = _sizes(maker.inputs[0])
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


def _turn_keys_once(model: ir.Model) -> None:
    """Attention's keys: (N, heads, T, d) -> Reshape (-1, T, d) -> Transpose -> Reshape (N, heads, d, T) is one Transpose."""
    for last in _nodes(model, "Reshape"):
        middle = _maker(last.inputs[0])
        first = _maker(middle.inputs[0]) if middle is not None and middle.op_type == "Transpose" else None
        if middle is None or first is None or first.op_type != "Reshape" or list(middle.attributes["perm"].as_ints()) != [0, 2, 1]:
            continue
        source = first.inputs[0]
        before, between, after = (_sizes(value) for value in (source, middle.inputs[0], last.outputs[0]))
        if not (before and between and after) or len(before) != 4 or len(between) != 3 or len(after) != 4:
            continue
        if before[2:] != between[1:] or after != [*before[:2], before[3], before[2]] or not all(isinstance(n, int) for n in before[1:]):
            continue
        turned = ir.node("Transpose", [source], attributes={"perm": [0, 1, 3, 2]}, name=f"{last.name}_turned")
        _take_over(model, last, turned)


def _sizes(value: ir.Value | None) -> list[int | str] | None:
    if value is None or value.shape is None:
        return None
    return [size if isinstance(size, int) else str(size) for size in value.shape]


def _drop_guards(model: ir.Model) -> None:
    """``Where(IsNaN(p), 0, p)`` after attention's Softmax hinders every fusion of attention, and quantizers see no attention there.

    It is there for rows whose keys are all masked, to which torch gives zeros. With a constant mask that leaves no row empty it goes.
    With another mask, empty rows are opened in the mask and zeroed after the product: torch's result also where the exporter writes the
    most negative number for -inf, with which the guard never fires.
    """
    repaired: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
    for guard in _nodes(model, "Where"):
        asked, fallback, weights = guard.inputs
        test, softmax = _maker(asked), _maker(weights)
        if weights is None or test is None or softmax is None or test.op_type != "IsNaN" or softmax.op_type != "Softmax":
            continue
        scores = _maker(softmax.inputs[0])
        users = [node for node, _ in guard.outputs[0].uses()]
        if test.inputs[0] is not weights or not _is_zero(fallback) or scores is None or scores.op_type != "Add":
            continue
        if _never_empty(scores):
            guard.outputs[0].replace_all_uses_with(weights, replace_graph_outputs=True)
            continue
        place = next((place for place, value in enumerate(scores.inputs) if _is_switch(value)), None)
        if place is None or len(users) != 1 or users[0].op_type != "MatMul" or users[0].inputs[0] is not guard.outputs[0]:
            continue
        mask = scores.inputs[place]
        assert mask is not None  # _is_switch found it
        if mask not in repaired:
            repaired[mask] = _without_empty_rows(model, mask)
        filled, kept = repaired[mask]
        scores.replace_input_with(place, filled)
        guard.outputs[0].replace_all_uses_with(weights)
        _multiply(model, users[0], kept)


def _never_empty(scores: ir.Node) -> bool:
    """Whether scores are a product plus a constant mask with a finite value in each row along the last axis."""
    masks = [content for value in scores.inputs if (content := constant(value)) is not None]
    return bool(masks) and bool((masks[0] > CLOSED).any(axis=-1).all())


def _is_switch(value: ir.Value | None) -> bool:
    """Whether a value is ``Where(condition, 0, -inf)``, or with the most negative number, as the exporter writes it."""
    maker = _maker(value)
    if maker is None or maker.op_type != "Where" or not _is_zero(maker.inputs[1]):
        return False
    closed = constant(maker.inputs[2])
    return closed is not None and bool((closed < CLOSED).all())


def _without_empty_rows(model: ir.Model, mask: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The mask with its empty rows opened, and 1 for rows that were not empty, 0 for those that were."""
    switch = mask.producer()
    assert switch is not None
    open_, name = switch.inputs[0], f"{switch.name}_row"
    axes = _constant(model, f"{name}_axes", np.array([-1], np.int64))
    tape = ir.tape.Tape()
    kept = tape.op(
        "ReduceMax", [tape.op("Cast", [open_], {"to": ir.DataType.FLOAT}, name=f"{name}_open"), axes], {"keepdims": 1}, name=f"{name}_any"
    )
    empty = tape.op("Not", [tape.op("Cast", [kept], {"to": ir.DataType.BOOL}, name=f"{name}_kept")], name=f"{name}_empty")
    filled = tape.op("Where", [tape.op("Or", [open_, empty], name=f"{name}_or"), *switch.inputs[1:]], name=f"{name}_filled")
    for node in tape.nodes:
        node.outputs[0].name = f"{node.name}_out"
    model.graph.insert_after(switch, list(tape.nodes))
    return filled, kept


def _multiply(model: ir.Model, node: ir.Node, factor: ir.Value) -> None:
    """Multiply a node's result by ``factor``, under the name the result had."""
    result = node.outputs[0]
    product = ir.node("Mul", [result, factor], name=f"{node.name}_kept")
    product.outputs[0].shape, product.outputs[0].type = result.shape, result.type
    users = result.uses()
    product.outputs[0].name, result.name = result.name, f"{result.name}_all"
    for user, place in users:
        if user is not product:
            user.replace_input_with(place, product.outputs[0])
    model.graph.insert_after(node, product)


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
    rank = len(_sizes(value) or ())
    return value is not None and value.is_graph_input() and start == 0 and (end == 1 or rank == 1)


def _constant(model: ir.Model, name: str, content: np.ndarray) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(content))
    value.shape, value.dtype = ir.Shape(content.shape), ir.DataType.from_numpy(content.dtype)
    model.graph.register_initializer(value)
    return value


def _take_over(model: ir.Model, old: ir.Node, new: ir.Node) -> None:
    """Put ``new`` in the place of ``old``, under its output's name and type."""
    ir.convenience.replace_nodes_and_values(model.graph, old, [old], [new], [old.outputs[0]], [new.outputs[0]])
